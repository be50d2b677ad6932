"""Makes the schedule that a config describes: a warm-up, a decay, and what is left at its end."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax.errors import UserError, unknown
from vit_jax.optim import options
from vit_jax.optim.schedules import decays, restarts

Schedule = Callable[[jax.typing.ArrayLike], jax.Array]

# Every option with its default; an option that the chosen schedule does not use must stay at its
# default. Learning rates are shares of the peak, optimizer.learning_rate; lengths are steps.
DEFAULTS: dict[str, Any] = {
  "name": "rsqrt",  # or "constant", "step", "linear", "cosine", "cosine_restarts", "envelopes"
  "warmup": 0,  # steps
  "warmup_start": 0.0,  # share of the peak at step 0 of a linear warm-up
  "warmup_shape": "linear",  # or "harmonic": the peak / n where n are left, n counts `every`
  # Whether the decay begins after the warm-up, which then rises to where it begins. False, as timm
  # has it: the decay began at step 0, and the warm-up, which rises to the peak, hides its first
  # part. linear, cosine, cosine_restarts, envelopes
  "warmup_prefix": True,
  "every": 1,  # the rate changes at every so many steps only: those of an epoch, with timm
  "timescale": 10_000,  # steps, rsqrt only; the rate has fallen by sqrt(2) after as many
  "shift": 0,  # steps, rsqrt only; starts the decay further down its curve
  "end": 0.0,  # share of the peak where the decay ends, that of linear, cosine… not rsqrt's
  "hold": 0,  # last steps of the run, at `end`; linear, cosine, envelopes
  "boundaries": (),  # steps from which on the rate is multiplied by `factor`, step only
  "factor": 0.1,  # step only
  "period": 0,  # steps of the first cycle, cosine_restarts only
  "period_factor": 1.0,  # each cycle is longer than the last by this factor, at least 1
  "cycles": 0,  # after which the rate stays at `end`; 0: cycles never end
  "cycle_decay": 1.0,  # the peak of each cycle is that of the last times this
  "folds": 7,  # how often the rate rises again, roughly, envelopes only; see restarts.py
  "upper": "linear",  # or "exponential": the fall of the maxima, envelopes only
  "upper_end": 0.1,  # share of the peak to which the maxima fall, envelopes only
  "lower_start": 0.1,  # share of the peak from which the minima fall to `end`, envelopes only
}

# The options that came later, each with a value at which it does nothing, for config.NEUTRAL.
ADDED = {
  key: list(value) if isinstance(value, tuple) else value
  for key, value in DEFAULTS.items()
  if key not in ("name", "warmup", "timescale", "shift", "end")
}

_SHARED = ("name", "warmup", "warmup_start", "warmup_shape", "every")
_MAKERS = {
  "constant": (decays.constant, ()),
  "rsqrt": (decays.rsqrt, ("timescale", "shift")),
  "step": (decays.step, ("boundaries", "factor")),
  "linear": (decays.linear, ("end", "hold", "warmup_prefix")),
  "cosine": (decays.cosine, ("end", "hold", "warmup_prefix")),
  "cosine_restarts": (
    restarts.cosine_restarts,
    ("end", "warmup_prefix", "period", "period_factor", "cycles", "cycle_decay"),
  ),
  "envelopes": (
    restarts.envelopes,
    ("end", "hold", "warmup_prefix", "folds", "upper", "upper_end", "lower_start"),
  ),
}
_TO_A_KNOWN_END = ("linear", "cosine", "envelopes")
_TRUNKS = ("rsqrt", "constant", "step")
_WARMUP_SHAPES = ("linear", "harmonic")


def names() -> list[str]:
  """Returns the names that `make` knows."""
  return sorted(_MAKERS)


def _check_name(name: str) -> None:
  if name not in _MAKERS:
    raise unknown("schedule", name, _MAKERS)


def is_horizon_free(name: str) -> bool:
  """Tells whether the schedule needs no length of the run.

  Raises:
    UserError: the name is unknown.
  """
  _check_name(name)
  return name not in _TO_A_KNOWN_END


def check_trunk(name: str) -> None:
  """Raises UserError unless branches of any length may leave a run on this schedule.

  It must need no length, and must not rise after the warm-up: else the rate at which a branch
  leaves is the phase of a cycle, and branches of different lengths differ by more than length.
  """
  _check_name(name)
  if name not in _TRUNKS:
    why = "rises again" if is_horizon_free(name) else "decays towards its own end"
    raise UserError(
      f"config.schedule.name='{name}' {why}, so it cannot be the trunk of config.branches: use "
      f"{', '.join(_TRUNKS[:-1])} or {_TRUNKS[-1]}"
    )


def make(
  name: str, *, learning_rate: float, total_steps: int | None = None, **changes: Any
) -> Schedule:
  """Makes a schedule.

  With s = step - warmup (`warmup_prefix`; else s = step), the share of the peak is

    rsqrt      1 / sqrt(1 + (s + shift) / timescale)
    constant   1
    step       factor ** (number of boundaries <= step)
    linear     from 1 to `end`, linear in s / n, and `end` from there on
    cosine     from 1 to `end`, half a cosine in s / n, and `end` from there on
    cosine_restarts, envelopes: see restarts.py

  where the decay is n = total_steps - warmup - hold steps long (total_steps - hold without
  `warmup_prefix`), and in the warm-up, a line from `warmup_start` at step 0 to that share at step
  `warmup` (without `warmup_prefix`: to 1). Steps count from 0, so that the first update of a
  warm-up from 0 is exactly zero.

  Compared with timm, whose schedulers count epochs unless told otherwise: `every` are the steps of
  an epoch, `warmup_prefix` is False, `hold` are the cool-down epochs, `cycles` is cycle_limit, and
  timm's lr_min and warmup_lr are learning rates instead of shares. With torch's
  CosineAnnealingWarmRestarts: `period` is T_0, `period_factor` T_mult, `end` eta_min / peak. The
  boundaries of "step" are those of torch's MultiStepLR; timm's come one step earlier.

  Args:
    name: one of `names()`.
    learning_rate: the peak.
    total_steps: the length of the run; linear, cosine and envelopes need it, the others do not
      look at it.
    **changes: the options of `DEFAULTS` that are not at their default.

  Returns:
    A function of the step (int, or integer array of any shape, at most 2**31 - 2) that gives
    the float32 learning rate; it can be jitted and vmapped.

  Raises:
    UserError: an unknown name, a missing `total_steps`, a value out of range, or an option of
      another schedule that is not at its default.
  """
  _check_name(name)
  for key in changes:
    if key not in DEFAULTS:
      raise unknown("schedule option", key, DEFAULTS)
  o = {**DEFAULTS, **changes, "name": name}
  maker, used = _MAKERS[name]
  options.refuse_unused("schedule", name, _SHARED + used, o, DEFAULTS)
  options.check_range("learning_rate", learning_rate, 0.0)
  options.check_range("warmup", o["warmup"], 0, integer=True)
  options.check_range("every", o["every"], 1, integer=True)
  options.check_range("end", o["end"], 0.0, 1.0)
  length = None if is_horizon_free(name) else _length(o, total_steps)
  peak = float(learning_rate)  # a NumPy float64 would widen the result where x64 is enabled
  origin = o["warmup"] if o["warmup_prefix"] else 0
  share = _after_warmup(o, maker(o, length), origin)
  every = o["every"]

  def schedule(step: jax.typing.ArrayLike) -> jax.Array:
    step = jnp.asarray(step, jnp.int32)
    return peak * share(step if every == 1 else step // every * every)

  return schedule


def _length(o: dict[str, Any], total_steps: int | None) -> int:
  """Returns the steps of a decay towards a known end."""
  if total_steps is None:
    free = [name for name in names() if is_horizon_free(name)]
    raise UserError(
      f"schedule '{o['name']}' decays towards a known end: set total_steps, "
      f"or use one of {', '.join(free)}"
    )
  options.check_range("total_steps", total_steps, 1, integer=True)
  options.check_range("hold", o["hold"], 0, integer=True)
  if total_steps <= o["warmup"] + o["hold"]:
    held = f" + hold={o['hold']}" if o["hold"] else ""
    raise UserError(
      f"schedule '{o['name']}': total_steps={total_steps} must be more than "
      f"warmup={o['warmup']}{held}"
    )
  return total_steps - o["hold"] - (o["warmup"] if o["warmup_prefix"] else 0)


def _after_warmup(o: dict[str, Any], shape: decays.Shape, origin: int) -> decays.Shape:
  """Returns the share of the peak as a function of the step, from step 0 on."""
  warmup, start, every = o["warmup"], o["warmup_start"], o["every"]
  if o["warmup_shape"] not in _WARMUP_SHAPES:
    raise unknown("warmup_shape", o["warmup_shape"], _WARMUP_SHAPES)
  options.check_range("warmup_start", start, 0.0, 1.0)
  if start and (not warmup or o["warmup_shape"] != "linear"):
    raise UserError(
      f"warmup_start={start!r} has no effect without a linear warm-up: set warmup, or remove it"
    )

  def share(step: jax.Array) -> jax.Array:
    after = shape(jnp.maximum(step, warmup) - origin)
    if not warmup:
      return after
    # Where the decay begins after the warm-up, `after` is its first value all through the warm-up.
    top = after if origin else 1.0
    if o["warmup_shape"] == "harmonic":
      rise = top * every / jnp.maximum(warmup - step, every).astype(jnp.float32)
    else:
      rise = start + (top - start) * (step.astype(jnp.float32) / warmup)
    return jnp.where(step < warmup, rise, after)

  return share
