"""Builds the optimiser that a config describes.

Order of the chain: global-norm clip, optimiser, + decay * parameter, * the parameter's own
multiplier, * -learning_rate; all but the clip is within the average of a schedule-free optimiser,
and frozen parameters stay outside (see frozen.py). The learning rate of
a step is an argument of `update`, not part of the state, so that a trunk and its cooldown branches
run the same compiled step from the same checkpoint.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import optax

from vit_jax.errors import UserError, unknown
from vit_jax.optim import (
  adafactor,
  decay,
  groups,
  layerwise,
  moments,
  muon,
  options,
  schedule_free,
)
from vit_jax.optim import frozen as frozen_lib

# Every option with its default. An option that the chosen optimiser does not use must stay at
# its default: anything else is an error (`options.refuse_unused`).
DEFAULTS: dict[str, Any] = {
  "name": "adamw",  # "sgd", "adafactor", "lion", "muon" or "schedule_free_adamw"
  # Decay of the first moment a step; adamw, adafactor; muon: of what is no matrix. lion: that of
  # the moment whose sign is the update (2302.06675, with beta2=0.99 and a learning rate 3 to 10
  # times below AdamW's). schedule_free_adamw: share of the average where the gradient is taken
  # (2405.15682: 0.9, or up to 0.98 for long runs).
  "beta1": 0.9,
  # Decay of the second moment a step, adafactor: its upper bound, lion: that of the stored moment;
  # muon: of what is no matrix (published with 0.95).
  "beta2": 0.999,
  # Added to the root of the second moment; adamw, schedule_free_adamw, muon (and to the norm).
  "eps": 1e-8,
  # sgd: v = momentum * v + g, the update is v; 0 is plain sgd. muon: of matrices, v = momentum * v
  # + (1 - momentum) * g, published with 0.95 and nesterov=True (kellerjordan.github.io/posts/muon).
  "momentum": 0.9,
  "nesterov": False,  # sgd, adamw, muon
  # Of the stored first moment: "float32" or "bfloat16"; auto: bfloat16 for adafactor only.
  "momentum_dtype": "auto",
  "bf16_coefficient": False,  # round beta1 as the authors' code does; adafactor (its docstring)
  "ns_steps": 5,  # of Newton-Schulz, after which singular values are near 1; muon, its author's
  # Root mean square of a matrix's update, before the learning rate; muon. That of AdamW's is 0.2 to
  # 0.4, hence one learning rate and decay for both (2502.16982, §2.2); 0: the first Muon's own
  # scale, sqrt(max(1, out / in)) times an orthogonal matrix, for rates near 0.02 (muon.py).
  "consistent_rms": 0.2,
  # A step weighs in the average as this power of its learning rate; schedule_free_adamw, its paper.
  "weight_lr_power": 2.0,
  "weight_decay": decay.DEFAULT_GROUPS,  # (regex, value), first match wins; times learning rate
  "clip_norm": 1.0,  # highest global norm of the gradient; 0 is off
  # The learning rate shrinks by this factor a layer from the head down; 1 is off (layerwise.py).
  "layer_decay": 1.0,
  "lr_multipliers": (),  # (regex, value), first match wins; times the learning rate, else 1
}

# The options that came later, each with the value at which it does nothing, for config.NEUTRAL.
ADDED = {key: DEFAULTS[key] for key in ("ns_steps", "consistent_rms", "weight_lr_power")}

_SHARED = ("name", "weight_decay", "clip_norm", "layer_decay", "lr_multipliers")
_USES = {
  "adamw": ("beta1", "beta2", "eps", "nesterov", "momentum_dtype"),
  "sgd": ("momentum", "nesterov", "momentum_dtype"),
  "adafactor": ("beta1", "beta2", "bf16_coefficient", "momentum_dtype"),
  "lion": ("beta1", "beta2", "momentum_dtype"),
  "muon": (
    *("momentum", "nesterov", "ns_steps", "consistent_rms"),
    *("beta1", "beta2", "eps", "momentum_dtype"),
  ),
  schedule_free.NAME: ("beta1", "beta2", "eps", "weight_lr_power"),
}
# Asked for, but not in optax, whose algorithms these are.
_ABSENT = ("soap",)
_MOMENTUM_DTYPES = ("auto", "float32", "bfloat16")


def names() -> list[str]:
  """Returns the names of the optimisers."""
  return sorted(_USES)


def resolve(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns every option of `DEFAULTS`, with the values of `config` where it has them.

  Raises:
    UserError: an unknown option or optimiser, a value out of range, or an option that the
      chosen optimiser does not use and that is not at its default.
  """
  changes = {key: value for key, value in config.items() if key != "learning_rate"}
  for key in changes:
    if key not in DEFAULTS:
      raise unknown("optimizer option", key, DEFAULTS)
  resolved = {**DEFAULTS, **changes}
  name = resolved["name"]
  if name in _ABSENT:
    raise UserError(
      f"optimizer '{name}' is not in optax {optax.__version__}, where the algorithms come from: "
      f"choose one of {', '.join(names())}"
    )
  if name not in _USES:
    raise unknown("optimizer", name, _USES)
  options.refuse_unused("optimizer", name, _SHARED + _USES[name], resolved, DEFAULTS)
  for key in ("beta1", "beta2", "momentum"):
    options.check_range(key, resolved[key], 0.0, 1.0, open_high=True)
  if name == schedule_free.NAME and not resolved["beta1"]:
    raise UserError(f"optimizer '{name}' needs a beta1 above 0")
  options.check_range("ns_steps", resolved["ns_steps"], 1, integer=True)
  for key in ("consistent_rms", "weight_lr_power"):
    options.check_range(key, resolved[key], 0.0)
  options.check_range("eps", resolved["eps"], 1e-20)  # at 0, a zero gradient would give 0 / 0
  if resolved["clip_norm"] is not None:
    options.check_range("clip_norm", resolved["clip_norm"], 0.0)
  if resolved["momentum_dtype"] not in _MOMENTUM_DTYPES:
    raise unknown("momentum_dtype", resolved["momentum_dtype"], _MOMENTUM_DTYPES)
  if resolved["momentum_dtype"] == "auto":
    resolved["momentum_dtype"] = "bfloat16" if name == "adafactor" else "float32"
  return resolved


def scale_by_learning_rate() -> optax.GradientTransformationExtraArgs:
  """Returns the last link: times minus the `learning_rate` given to `update`; stateless."""

  def update(
    updates: optax.Updates,
    state: optax.EmptyState,
    params: optax.Params | None = None,
    *,
    learning_rate: jax.typing.ArrayLike,
    **_: Any,
  ) -> tuple[optax.Updates, optax.EmptyState]:
    del params
    return jax.tree.map(lambda u: -learning_rate * u, updates), state

  return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _scale_by(o: Mapping[str, Any], stacked: str | None) -> optax.GradientTransformation:
  dtype = o["momentum_dtype"]
  if o["name"] == "adamw":
    return moments.store_as(
      optax.scale_by_adam(o["beta1"], o["beta2"], o["eps"], nesterov=o["nesterov"]), "mu", dtype
    )
  if o["name"] == "lion":
    return moments.store_as(optax.scale_by_lion(o["beta1"], o["beta2"]), "mu", dtype)
  if o["name"] == "adafactor":
    return adafactor.scale_by_adafactor(
      o["beta1"],
      o["beta2"],
      dtype,
      bf16_coefficient=o["bf16_coefficient"],
      clip_norm=o["clip_norm"],
      stacked=stacked,
    )
  if o["name"] == "muon":
    return muon.scale_by_muon(
      *(o[key] for key in ("momentum", "beta1", "beta2", "eps", "momentum_dtype")),
      nesterov=o["nesterov"],
      ns_steps=o["ns_steps"],
      consistent_rms=o["consistent_rms"],
      stacked=stacked,
    )
  if o["name"] == schedule_free.NAME:  # Adam without its first moment
    return optax.scale_by_rms(o["beta2"], o["eps"], eps_in_sqrt=False, bias_correction=True)
  if not o["momentum"]:
    return optax.identity()
  return moments.store_as(optax.trace(o["momentum"], o["nesterov"]), "trace", dtype)


def _any_match(pattern: str, params: optax.Params) -> bool:
  return any(re.fullmatch(pattern, name) for name in groups.path_names(params))


def make(
  config: Mapping[str, Any],
  params: optax.Params,
  *,
  stacked: str | None = None,
  frozen: Any = None,
) -> optax.GradientTransformationExtraArgs:
  """Makes the optimiser of a config.

  Used as `tx.update(grads, state, params, learning_rate=lr)` with lr a (traced) scalar and grads
  those at `schedule_free.point(state, params)`. One step is p -= lr * multiplier * (u + wd * p),
  with u from the clipped gradient; that of a schedule-free optimiser is in schedule_free.py.

  Args:
    config: options of `DEFAULTS` by name (dict or ConfigDict); those left out take their default.
      A `learning_rate` among them is the peak of the schedule, which is not looked at here.
    params: the parameters or their shapes, for what goes by name.
    stacked: regular expression for the whole paths of parameters whose axis 0 counts layers
      (`nn.scan`), for the optimisers that tell axes apart; see `adafactor.scale_by_factored_rms`.
    frozen: tree of bools like `params`, what not to train; see `frozen.mask`. None: train all.

  Raises:
    UserError: see `resolve`, `decay.per_parameter` and `layerwise.multipliers`.
  """
  o = resolve(config)
  if frozen is None:
    frozen = jax.tree.map(lambda _: False, params)
  values = decay.per_parameter(o["weight_decay"], params)
  multipliers = layerwise.multipliers(o["layer_decay"], o["lr_multipliers"], params)
  if stacked is not None and not _any_match(stacked, frozen_lib.hide(frozen, params)):
    stacked = None if _any_match(stacked, params) else stacked
  # Adafactor clips by itself, where it takes one pass over the gradient less.
  clips = o["clip_norm"] and o["name"] != "adafactor"
  clip = optax.clip_by_global_norm(o["clip_norm"]) if clips else optax.identity()
  links = [_scale_by(o, stacked), decay.add_decay(frozen_lib.hide(frozen, values))]
  if multipliers is not None:
    links.append(layerwise.scale(frozen_lib.hide(frozen, multipliers)))
  links.append(scale_by_learning_rate())
  if o["name"] == schedule_free.NAME:
    links = [schedule_free.wrap(optax.chain(*links), o["beta1"], o["weight_lr_power"])]
  tx = optax.chain(clip, *links)
  return frozen_lib.leave_alone(tx, frozen) if any(jax.tree.leaves(frozen)) else tx
