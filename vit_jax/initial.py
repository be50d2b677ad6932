"""Weights that a run starts from: a file of another project, or a run of this one."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import linen as nn
from flax import traverse_util

from vit_jax import pretrained
from vit_jax.checkpoint import DIRECTORY, Checkpoints
from vit_jax.errors import UserError, unknown
from vit_jax.models import stacking
from vit_jax.pretrained import resize
from vit_jax.pretrained.formats import FORMATS
from vit_jax.pretrained.rules import Resize
from vit_jax.state import TrainState

HEADS = ("keep", "fresh")
_HEADS = ("params/head/", "params/head_dist/")


@dataclasses.dataclass(frozen=True)
class Initial:
  """The weights of a file or a run.

  Attributes:
    variables: {"params": ...[, "batch_stats": ...]} of NumPy arrays, as the model wants them.
    sha256: of the file; for a run, of the names and values of its weights.
  """

  variables: dict[str, Any]
  sha256: str


def check(config: ml_collections.ConfigDict) -> None:
  """Checks the keys `init_*` of a config, without reading weights.

  Raises:
    UserError: a wrong value, a path that is not there, or a directory without a checkpoint.
  """
  if config.init_head not in HEADS:
    raise unknown("config.init_head", config.init_head, HEADS)
  resize.check_method(config.init_interpolation)
  if config.init_from is None:
    return
  if not config.init_from:
    raise UserError(
      "this config starts from pre-trained weights: give --config.init_from=FILE (.npz, "
      ".safetensors, .pth, .bin) or a run directory"
    )
  path = Path(config.init_from).expanduser()
  if not path.exists():
    raise UserError(
      f"config.init_from: {path} is not there; it must be a weights file or a run directory"
    )
  if path.is_dir():
    _last_step(path)


def read(
  config: ml_collections.ConfigDict,
  model: nn.Module,
  shapes: Mapping[str, Any],
  key: jax.Array,
  log: Callable[[str], None],
) -> Initial:
  """Reads the weights that `config.init_from` names.

  Args:
    config: its `init_*` keys.
    model: of the run.
    shapes: its variables' shapes, {"params": ...[, "batch_stats": ...]}.
    key: of what starts anew, with `init_head="fresh"`.
    log: is told what is read.

  Raises:
    UserError: the file or checkpoint cannot be read, or its arrays do not fit the model.
  """
  path = Path(config.init_from).expanduser()
  if path.is_dir():
    return _read_run(path, config, model, shapes, key, log)
  with path.open("rb") as f:
    sha256 = hashlib.file_digest(f, "sha256").hexdigest()
  variables = pretrained.load(
    path,
    model,
    head=config.init_head,
    interpolation=config.init_interpolation,
    key=key,
    log=log,
  )
  return Initial(jax.tree.map(np.asarray, dict(variables)), sha256)


def place(initial: Initial, state: TrainState) -> TrainState:
  """Returns the state with other parameters and statistics, in its shardings."""

  def put(value: np.ndarray, old: jax.Array) -> jax.Array:
    value = np.asarray(value, old.dtype)
    return jax.make_array_from_callback(old.shape, old.sharding, lambda index: value[index])

  return state.replace(
    params=jax.tree.map(put, initial.variables["params"], state.params),
    batch_stats=jax.tree.map(put, initial.variables.get("batch_stats", {}), state.batch_stats),
  )


def _last_step(directory: Path) -> int:
  """Returns the step of a run's last checkpoint."""
  found = None
  if (directory / DIRECTORY).is_dir():
    checkpoints = Checkpoints(directory, read_only=True)
    found = checkpoints.latest()
    checkpoints.close()
  if found is None:
    runs = sorted(str(p.parent) for p in directory.glob(f"*/{DIRECTORY}"))
    hint = f"give one of its runs, such as {runs[0]}" if runs else "give a run directory or a file"
    raise UserError(f"config.init_from: {directory} holds no checkpoint: {hint}")
  return found


def _read_run(
  directory: Path,
  config: ml_collections.ConfigDict,
  model: nn.Module,
  shapes: Mapping[str, Any],
  key: jax.Array,
  log: Callable[[str], None],
) -> Initial:
  """Reads the last checkpoint of a run of this project; `scan` may differ."""
  step = _last_step(directory)
  where = f"config.init_from: {directory}, step {step}"
  checkpoints = Checkpoints(directory, read_only=True)
  try:
    found = checkpoints.weights(step)
  finally:
    checkpoints.close()
  theirs = _flat({collection: stacking.unstack(tree) for collection, tree in found.items()})
  wanted, left = _flat(shapes), set(theirs)
  heads = _fresh_heads(model, wanted, key) if config.init_head == "fresh" else {}
  resizers = _resizers(model)

  def take(path: str, shape: tuple[int, ...]) -> np.ndarray:
    if path not in theirs:
      raise UserError(f"{where} has no {path} [{_shown(shape)}]: it is of another model")
    left.discard(path)
    array = theirs[path]
    if array.shape == shape:
      return array
    if path in resizers:
      log(f"  {path}: resized from [{_shown(array.shape)}] to [{_shown(shape)}]")
      return resizers[path](array, shape, config.init_interpolation)
    hint = 'for other classes set init_head="fresh"' if path.startswith(_HEADS) else "another model"
    raise UserError(
      f"{where}: {path} is [{_shown(array.shape)}], and the model's [{_shown(shape)}]: {hint}"
    )

  out = {}
  for path, x in wanted.items():
    parts = path.split("/")
    if path in heads:
      out[path] = heads[path]
    elif stacking.STACKED in parts:
      at = parts.index(stacking.STACKED)
      names = ["/".join([*parts[:at], f"block_{i}", *parts[at + 1 :]]) for i in range(x.shape[0])]
      out[path] = np.stack([take(name, x.shape[1:]) for name in names])
    else:
      out[path] = take(path, x.shape)
  left = {path for path in left if not (heads and path.startswith(_HEADS))}
  if left:
    raise UserError(f"{where} has {min(left)}, which the model has not: it is of another model")
  log(f"{where}: {len(out)} arrays{' (fresh heads)' if heads else ''}")
  return Initial(traverse_util.unflatten_dict(out, sep="/"), _digest(theirs))


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
  return traverse_util.flatten_dict(dict(tree), sep="/")


def _shown(shape: tuple[int, ...]) -> str:
  return " x ".join(map(str, shape))


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
  sha256 = hashlib.sha256()
  for path, value in sorted(arrays.items()):
    sha256.update(path.encode())
    sha256.update(np.ascontiguousarray(value).tobytes())
  return sha256.hexdigest()


def _fresh_heads(
  model: nn.Module, wanted: Mapping[str, Any], key: jax.Array
) -> dict[str, np.ndarray]:
  """Returns the heads of a new model, by path."""

  def init(key: jax.Array) -> dict[str, jax.Array]:
    # Three channels or not: heads do not depend on it, and what is not returned is not computed.
    images = jnp.zeros((1, model.image_size, model.image_size, 3), jnp.float32)
    new = _flat(model.init({"params": key}, images, train=False))
    return {path: x for path, x in new.items() if path.startswith(_HEADS)}

  return {path: np.asarray(x) for path, x in jax.jit(init)(key).items() if path in wanted}


def _resizers(model: nn.Module) -> dict[str, Resize]:
  """Returns the functions for tables that depend on the resolution, by path."""
  unscanned = model.clone(scan=False) if getattr(model, "scan", False) else model
  return {
    rule.ours[0]: rule.resize
    for form in FORMATS.get(type(model), ())[:1]
    for rule in form.rules(unscanned)
    if rule.resize is not None
  }
