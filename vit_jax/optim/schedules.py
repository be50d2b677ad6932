"""Learning-rate schedules and the cooldown that ends a run.

A schedule is a function of the step alone. A cooldown is a separate factor of (step, start, end),
where start and end may be traced: a trunk and all of its branches then share one compiled step.
Steps count from 0, so that the first update of a warm-up is exactly zero.

Source: Zhai et al., "Scaling Vision Transformers" (2106.04560), §3.5 (rsqrt, linear cooldown to
0); Hägele et al., "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations"
(2405.18392; the 1-sqrt shape).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vit_jax.errors import UserError, unknown
from vit_jax.optim import options

Schedule = Callable[[jax.typing.ArrayLike], jax.Array]

# The options that only some of the schedules read.
_USES = {"rsqrt": ("timescale", "shift"), "constant": (), "linear": ("end",), "cosine": ("end",)}
_DEFAULTS = {"timescale": 10_000, "shift": 0, "end": 0.0}
_HORIZON_FREE = ("rsqrt", "constant")

COOLDOWNS = ("linear", "1-sqrt")

# As start and end of a cooldown: a run that does not cool down, its factor is exactly 1.
NEVER = 2**31 - 1


def names() -> list[str]:
  """Returns the names that `make` knows."""
  return sorted(_USES)


def is_horizon_free(name: str) -> bool:
  """Tells whether the schedule needs no length, so that a trunk can run on it.

  Raises:
    UserError: the name is unknown.
  """
  if name not in _USES:
    raise unknown("schedule", name, _USES)
  return name in _HORIZON_FREE


def make(
  name: str,
  *,
  learning_rate: float,
  warmup: int = 0,
  timescale: int | float = 10_000,
  shift: int = 0,
  total_steps: int | None = None,
  end: float = 0.0,
) -> Schedule:
  """Makes a schedule.

  With s = step - warmup, the share of the peak after the warm-up is

    rsqrt     1 / sqrt(1 + (s + shift) / timescale)
    constant  1
    linear    from 1 to `end`, linear in s / (total_steps - warmup)
    cosine    from 1 to `end`, half a cosine in s / (total_steps - warmup)

  and before it, a line from 0 at step 0 to the schedule's own value at step `warmup`.

  Args:
    name: one of `names()`.
    learning_rate: the peak (reached at the end of the warm-up where shift is 0).
    warmup: steps; 0 is none.
    timescale: steps, rsqrt only; the rate has fallen by sqrt(2) after as many.
    shift: steps, rsqrt only; starts the decay further down its curve.
    total_steps: steps; linear and cosine need it, the others do not look at it.
    end: share of the peak at `total_steps` and after, linear and cosine only.

  Returns:
    A function of the step (int, or integer array of any shape, at most 2**31 - 2) that gives
    the float32 learning rate; it can be jitted and vmapped.

  Raises:
    UserError: an unknown name, a missing `total_steps`, a value out of range, or an option of
      another schedule that is not at its default.
  """
  horizon_free = is_horizon_free(name)
  options.refuse_unused(
    "schedule", name, _USES[name], {"timescale": timescale, "shift": shift, "end": end}, _DEFAULTS
  )
  options.check_range("learning_rate", learning_rate, 0.0)
  options.check_range("warmup", warmup, 0, integer=True)
  options.check_range("shift", shift, 0, integer=True)
  options.check_range("end", end, 0.0, 1.0)
  options.check_range("timescale", timescale, 1)
  if not horizon_free:
    if total_steps is None:
      raise UserError(
        f"schedule '{name}' decays towards a known end: set total_steps, "
        f"or use one of {', '.join(_HORIZON_FREE)}"
      )
    options.check_range("total_steps", total_steps, 1, integer=True)
    if total_steps <= warmup:
      raise UserError(
        f"schedule '{name}': total_steps={total_steps} must be more than warmup={warmup}"
      )
  peak = float(learning_rate)  # a NumPy float64 would widen the result where x64 is enabled

  def shape(step: jax.Array) -> jax.Array:
    """Share of the peak at a step that is at least `warmup`."""
    if name == "constant":
      return jnp.ones(step.shape, jnp.float32)
    if name == "rsqrt":
      # The difference is taken between integers: float32 cannot tell large steps apart.
      since = (step - warmup).astype(jnp.float32) + shift
      return jax.lax.rsqrt(1 + since / timescale)
    # Measured from the end, where the rate is small, for the relative precision there.
    left = jnp.clip(total_steps - step, 0).astype(jnp.float32) / (total_steps - warmup)
    if name == "cosine":
      left = jnp.square(jnp.sin(jnp.pi / 2 * left))
    return end + (1 - end) * left

  def schedule(step: jax.typing.ArrayLike) -> jax.Array:
    step = jnp.asarray(step, jnp.int32)
    rise = step.astype(jnp.float32) / max(warmup, 1)
    factor = jnp.where(step < warmup, rise, 1) * shape(jnp.maximum(step, warmup))
    return peak * factor

  return schedule


def check_cooldown(shape: str) -> None:
  """Raises UserError unless the shape is one of `COOLDOWNS`."""
  if shape not in COOLDOWNS:
    raise unknown("cooldown shape", shape, COOLDOWNS)


def cooldown(
  step: jax.typing.ArrayLike,
  start: jax.typing.ArrayLike,
  end: jax.typing.ArrayLike,
  shape: str = "linear",
) -> jax.Array:
  """Returns the factor that takes any schedule down to 0.

  With progress p = (step - start) / (end - start): 1 - p ("linear") or 1 - sqrt(p) ("1-sqrt").

  Args:
    step: int or integer array.
    start: the last step with factor 1; may be a traced int32.
    end: the first step with factor 0; may be a traced int32. A run that does not cool down
      passes start = end = `NEVER`, for which the factor is exactly 1.
    shape: one of `COOLDOWNS`; static.

  Returns:
    float32 in [0, 1], of the step's shape: 1 up to and including `start`, 0 from `end` on. Where
    start = end, the first of the two rules wins.

  Raises:
    UserError: the shape is unknown.
  """
  check_cooldown(shape)
  step, start, end = (jnp.asarray(x, jnp.int32) for x in (step, start, end))
  # Clipped while still integers: step - NEVER does not overflow, for neither is negative.
  length = jnp.maximum(end - start, 1)
  left = jnp.clip(end - step, 0, length).astype(jnp.float32) / length.astype(jnp.float32)
  # 1 - sqrt(1 - left), without the cancellation at its end.
  factor = left if shape == "linear" else left / (1 + jnp.sqrt(1 - left))
  return jnp.where(step <= start, 1.0, factor)
