"""The one place where every config key has its default, its unit and its meaning.

A config file has a function `get_config()` that returns a `ConfigDict` with the keys it changes
(or starts from `default()`); `resolve` lays it over the defaults and refuses unknown keys.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_collections
from ml_collections.config_dict import placeholder

from vit_jax import adversarial_training, averages, contrastive, models, optim
from vit_jax.errors import UserError
from vit_jax.optim import schedules

# Entries below these keys are named by the user; what one may contain is checked by its reader.
OPEN_KEYS = ("evaluators", "ladder")

# Keys that may change between two starts of one run: they do not alter what is computed.
FREE_KEYS = (
  "branches",
  "ladder",
  "mesh",
  "log_every",
  "checkpoint_every",
  "data.dir",
  "data.num_threads",
  "data.cache",
)

# Keys in which even the processes of one run may differ.
HOST_KEYS = ("data.dir", "data.num_threads", "data.cache")

# Keys that came later, with the value at which they do nothing: as if they were not set.
NEUTRAL = {
  "adversarial.kind": "none",
  **{f"contrastive.{key}": value for key, value in contrastive.DEFAULTS.items()},
  "data.repeats": 1,
  "data.resident": False,
  "distill.alpha": 0.5,
  "distill.kind": "hard",
  "distill.temperature": 1.0,
  "freeze": [],
  "init_head": "keep",
  "init_interpolation": "bicubic",
  "mixing.cutmix": 0.0,
  "mixing.kind": "timm",
  "mixing.mixup": 0.0,
  "mixing.prob": 1.0,
  "mixing.switch": 0.5,
  "optimizer.layer_decay": 1.0,
  "optimizer.lr_multipliers": [],
  "sam.kind": "none",
  "updates": "after",
  **{f"optimizer.{key}": value for key, value in optim.ADDED.items()},
  **{f"{g}.{key}": value for g, keys in averages.DEFAULTS.items() for key, value in keys.items()},
  **{f"schedule.{key}": value for key, value in schedules.ADDED.items()},
}


def default() -> ml_collections.ConfigDict:
  """Returns every key with its default; `placeholder` marks a type without a default value."""
  return ml_collections.ConfigDict(
    dict(
      seed=0,  # gives initialisation, data order, augmentation and dropout
      batch_size=128,  # images a step, over all devices and all accumulated micro-batches
      # When parameters change: "after" the gradient of the whole model, or "within" the backward
      # pass, layer by layer, in less memory and with another clipping; see within.py.
      updates="after",
      accumulate=1,  # micro-batches a step; the gradient is that of the whole batch
      total_steps=placeholder(int),  # length of the run or trunk; unset: up to the last branch
      # Steps at which a cooled-down model is wanted: each ends one branch off the trunk.
      branches=(),
      # Length of the decay to 0 that ends a branch (or, without branches, the run): a share of
      # its steps when below 1, else a number of steps; 0 is none.
      cooldown=0.0,
      cooldown_shape="linear",  # or "1-sqrt", "cosine"
      # Where the weights come from: a file (.npz, .safetensors, .pth, .bin), or a run directory,
      # the parameters and statistics of its last checkpoint. Unset: the seed; "": yet to be given.
      init_from=placeholder(str),
      init_head="keep",  # or "fresh": the head starts anew, for other classes
      # Of positions at another resolution: vit_jax/pretrained/resize.py lists the methods.
      init_interpolation="bicubic",
      # Not trained: regular expressions for whole "/"-joined parameter paths; see optim/frozen.py.
      # A linear probe is (r"(?!head(_dist)?/).*",): everything but the heads.
      freeze=(),
      model=dict(
        name="ViT-Ti/16",  # `python -m vit_jax.models` lists the names
        # The fields of the model's class, unset: the variant's own. Their meaning is in the
        # docstring of the class; those that the class lacks are refused.
        **{key: placeholder(kind) for key, kind in models.config_keys().items()},
      ),
      data=dict(
        name="synthetic",  # a TFDS name, "synthetic", or the path of an image folder
        dir=placeholder(str),  # of prepared TFDS sets; unset: TFDS_DATA_DIR
        split="train",  # TFDS slicing works: "train[:98%]"
        image_size=16,  # pixels that the model sees
        # Preprocessing of one image, `op(args)|op(args)`; see vit_jax/data/transforms.py.
        train="random_crop(16, pad=2)|value_range(-1, 1)",
        eval="value_range(-1, 1)",
        repeats=1,  # how many times a batch has each of its images: vit_jax/data/order.py
        num_threads=2,  # that read and transform images
        cache=placeholder(bool),  # decode once into memory; unset: when the set is small
        # All training images live on each device, as uint8, and are preprocessed there: for small
        # sets, see vit_jax/data/resident.py.
        resident=False,
      ),
      # Of the images of a batch, on the device; see vit_jax/data/mixing.py.
      mixing=dict(
        mixup=0.0,  # alpha of mixup's Beta distribution, 0 for none
        cutmix=0.0,  # alpha of CutMix's
        switch=0.5,  # probability of CutMix where both are set
        prob=1.0,  # probability that a batch is mixed at all
        until=placeholder(int),  # step from which on none is; unset: never
        kind="timm",  # whose conventions: "timm" or "big_vision"
      ),
      loss=dict(
        name="softmax_xent",  # or "sigmoid_xent"
        label_smoothing=0.0,
      ),
      # Learning from a teacher; see vit_jax/distillation.py.
      distill=dict(
        teacher=placeholder(str),  # a weights file or a run directory; unset: none
        # Which model it is, for a file; for a run, what is to differ from its config.
        model=dict(
          name=placeholder(str), **{k: placeholder(v) for k, v in models.config_keys().items()}
        ),
        kind="hard",  # the teacher's decision, or "soft": its probabilities
        alpha=0.5,  # weight of the teacher's term; 1 - alpha is that of the labels'
        temperature=1.0,  # of the probabilities, soft only
      ),
      # Attack each batch before its gradient: kind "fgsm" or "pgd", epsilon, steps, …; every key:
      # vit_jax/adversarial_training.py.
      adversarial=dict(
        kind="none", **{k: placeholder(v) for k, v in adversarial_training.OPTIONS.items()}
      ),
      # Learn features instead of classes: kind "supcon", temperature, …: vit_jax/contrastive.py.
      contrastive=dict(contrastive.DEFAULTS),
      optimizer=dict(
        learning_rate=1e-3,  # peak
        **optim.DEFAULTS,  # name, moments, weight_decay, clip_norm: vit_jax/optim/factory.py
      ),
      # kind, rho, m, …; every key: vit_jax/optim/sam.py.
      sam=dict(kind="none", **{k: placeholder(v) for k, v in optim.sam.OPTIONS.items()}),
      # name, warmup, …; every key: vit_jax/optim/schedules/factory.py.
      schedule=dict(schedules.DEFAULTS),
      # ema, lawa: averages of the parameters, evaluated beside them; every key: averages.py.
      **averages.DEFAULTS,
      mesh=dict(
        data=-1,  # devices along the batch; -1: all that are left
        fsdp=1,  # devices over which parameters and optimiser state are sharded as well (ZeRO-3)
        zero1=1,  # in its stead: devices over which only the optimiser state is sharded
      ),
      # name -> dict(type=…, split=…, every=steps, …); every=0 evaluates only at the end.
      evaluators=dict(test=dict(type="classification", split="test", every=0)),
      log_every=50,  # steps between progress lines and TensorBoard points
      checkpoint_every=1_000,  # steps; a resumed run repeats at most as many
      # name -> the keys that one rung changes; each rung is a run in <workdir>/<name>.
      ladder=dict(),
    )
  )


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
  """Yields (dotted key, leaf) of a nested mapping; an empty mapping is a leaf."""
  for key, value in tree.items():
    if isinstance(value, Mapping) and value:
      yield from flatten(value, f"{prefix}{key}.")
    else:
      yield f"{prefix}{key}", value


def _is_open(key: str) -> bool:
  return key.split(".")[0] in OPEN_KEYS


def unknown_key(key: str) -> UserError:
  """Returns the error for a dotted key that `default()` does not have."""
  if _is_open(key):
    return UserError(
      f"config key '{key}' is not in the config file; add it there (below "
      f"'{key.split('.')[0]}' only what the file sets can be overridden)"
    )
  known = [k for k, _ in flatten(default().to_dict())]
  near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
  if not near:  # a right key at a wrong level
    near = [k for k in known if k.split(".")[-1] == key.split(".")[-1]]
  hint = f"did you mean {' or '.join(near)}?" if near else "vit_jax/config.py lists the keys"
  return UserError(f"unknown config key '{key}': {hint}")


def _merge(base: ml_collections.ConfigDict, changes: Mapping[str, Any], prefix: str) -> None:
  for key, value in changes.items():
    path = f"{prefix}{key}"
    if path in OPEN_KEYS:
      base[key] = _open_group(path, value)
    elif key not in base:
      raise unknown_key(path)
    elif isinstance(base[key], ml_collections.ConfigDict):
      if not isinstance(value, Mapping):
        raise UserError(f"config key '{path}' is a group of keys, not a value: got {value!r}")
      _merge(base[key], value, f"{path}.")
    else:
      try:
        base[key] = value
      except TypeError:
        kind = base.get_type(key).__name__
        raise UserError(f"config key '{path}' must be of type {kind}, got {value!r}") from None


def _open_group(path: str, value: Any) -> ml_collections.ConfigDict:
  """Checks a group of entries that the user names, each a group of keys."""
  entries = value.items() if isinstance(value, Mapping) else [(None, value)]
  for name, entry in entries:
    if not isinstance(entry, Mapping) or not re.fullmatch(r"[\w-]+", name):
      raise UserError(
        f"config key '{path}' must be a dict of name -> dict of keys, the names of "
        f"letters, digits, - and _; got {value!r}"
      )
  return ml_collections.ConfigDict(value)


def _check_ranges(config: ml_collections.ConfigDict) -> None:
  least = {
    "batch_size": 1,
    "accumulate": 1,
    "log_every": 1,
    "checkpoint_every": 1,
    "seed": 0,
    "data.image_size": 1,
    "data.num_threads": 0,
    "data.repeats": 1,
  }
  flat = dict(flatten(config.to_dict()))
  if config.updates not in ("after", "within"):
    raise UserError(f"config key 'updates' must be 'after' or 'within', got {config.updates!r}")
  for key, low in least.items():
    if flat[key] < low:
      raise UserError(f"config key '{key}' must be at least {low}, got {flat[key]}")


def resolve(changes: Mapping[str, Any]) -> ml_collections.ConfigDict:
  """Lays a config over the defaults.

  Args:
    changes: nested mapping (ConfigDict or dict) with the keys that differ from the defaults.

  Returns:
    A ConfigDict with every key of `default()`, locked.

  Raises:
    UserError: an unknown key (the nearest known one is named) or a value of a wrong type.
  """
  config = default()
  if isinstance(changes, ml_collections.ConfigDict):
    changes = changes.to_dict()
  _merge(config, changes, "")
  _check_ranges(config)
  return config.lock()


def rungs(
  config: ml_collections.ConfigDict, last_word: Sequence[str] = ()
) -> dict[str, ml_collections.ConfigDict]:
  """Returns name -> config of every rung of the ladder (name "" for a config without one).

  Args:
    config: with the keys that all rungs share, and the ladder.
    last_word: dotted keys whose value in `config` wins over that of any rung.

  Raises:
    UserError: a rung sets an unknown key, or a ladder of its own.
  """
  base = config.to_dict()
  ladder = base.pop("ladder")
  if not ladder:
    return {"": config}
  out = {}
  for name, changes in ladder.items():
    if "ladder" in changes:
      raise UserError(f"config key 'ladder.{name}' cannot have a ladder of its own")
    rung = resolve(base).unlock()
    _merge(rung, changes, "")
    for key in last_word:
      *groups, leaf = key.split(".")
      node, source = rung, config
      for group in groups:
        node, source = node[group], source[group]
      node[leaf] = source[leaf]
    out[name] = resolve(rung)
  return out


def to_json(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns the config as JSON values (tuples become lists), without the ladder."""
  tree = {k: v for k, v in config.to_dict().items() if k != "ladder"}
  return json.loads(json.dumps(tree))


def _has_open_end(flat: Mapping[str, Any]) -> bool:
  """Whether a run's length is no part of what its steps are: a trunk's, not a single run's."""
  return bool(flat.get("branches"))


def _identity(flat: Mapping[str, Any], open_end: bool) -> dict[str, Any]:
  free = (*FREE_KEYS, "total_steps") if open_end else FREE_KEYS
  # What is not set says nothing, so that a run outlives keys that are added later.
  return {
    k: v
    for k, v in flat.items()
    if v is not None
    and not (k in NEUTRAL and v == NEUTRAL[k])
    and not any(k == f or k.startswith(f + ".") for f in free)
  }


def config_hash(config: ml_collections.ConfigDict) -> str:
  """Returns 12 hex digits over all keys that alter what is computed."""
  flat = dict(flatten(to_json(config)))
  text = json.dumps(_identity(flat, _has_open_end(flat)), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:12]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
  """Lists 'key: old -> new' of all keys in which two JSON configs describe different runs."""
  a, b = dict(flatten(old)), dict(flatten(new))
  open_end = _has_open_end(a) and _has_open_end(b)
  a, b = _identity(a, open_end), _identity(b, open_end)
  unset = "(not there)"
  return [
    f"{k}: {a.get(k, unset)!r} -> {b.get(k, unset)!r}"
    for k in sorted(a.keys() | b.keys())
    if a.get(k, unset) != b.get(k, unset)
  ]
