"""The decay to 0 that ends a run or a branch, as a factor on any schedule.

Source: Zhai et al., "Scaling Vision Transformers" (2106.04560), §3.5 (linear); Hägele et al.,
"Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations" (2405.18392; 1-sqrt,
and cosine among the shapes it compares).
"""

import jax
import jax.numpy as jnp

from vit_jax.errors import unknown

COOLDOWNS = ("linear", "1-sqrt", "cosine")

# As start and end of a cooldown: a run that does not cool down, its factor is exactly 1.
NEVER = 2**31 - 1


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

  With progress p = (step - start) / (end - start): 1 - p ("linear"), 1 - sqrt(p) ("1-sqrt") or
  (1 + cos(pi p)) / 2 ("cosine").

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
  if shape == "1-sqrt":
    left = left / (1 + jnp.sqrt(1 - left))  # 1 - sqrt(1 - left), without the cancellation
  elif shape == "cosine":
    left = half_cosine(left)
  return jnp.where(step <= start, 1.0, left)


def half_cosine(left: jax.Array) -> jax.Array:
  """Returns (1 + cos(pi (1 - left))) / 2, precise where little is left."""
  return jnp.square(jnp.sin(jnp.pi / 2 * left))
