"""The modified Adafactor of "Scaling Vision Transformers" (2106.04560, §3.4).

Adafactor (Shazeer & Stern, 1804.04235) with a first moment, made to follow Adam closely at a
quarter of its memory:

  t       = number of this update, from 1
  beta2_t = min(beta2, 1 - t^-0.8)
  v_t     = beta2_t v_{t-1} + (1 - beta2_t) (g^2 + 1e-30)
  u_t     = g / sqrt(v_t)
  m_t     = beta1 m_{t-1} + (1 - beta1) u_t      the update; no bias correction

v is kept as its means over the largest and over the second largest axis wherever the second
largest has at least 32 entries; the two are then combined as outer(row, col) / mean(row). Unlike
the first Adafactor it neither clips the update nor multiplies it by the parameter's scale.

**The first moment** is stored in bfloat16. Here the moment is widened and multiplied by beta1 in
float32; only the stored result is rounded. The reference implementation lets beta1 itself be
rounded to bfloat16, 0.9 to 0.8984375, while 1 - beta1 stays 0.1.
"""

import jax
import jax.numpy as jnp
import optax

from vit_jax.optim import moments

DECAY_EXPONENT = 0.8
EPSILON = 1e-30  # added to g^2
MIN_DIM_TO_FACTOR = 32


def second_moment_decay(count: jax.typing.ArrayLike, beta2: float) -> jax.Array:
  """Returns beta2_t = min(beta2, 1 - t^-0.8), float32, for t = count + 1."""
  t = jnp.asarray(count, jnp.float32) + 1
  return jnp.minimum(beta2, 1 - t ** -DECAY_EXPONENT)


def scale_by_adafactor(beta1: float = 0.9, beta2: float = 0.999,
                       momentum_dtype: jax.typing.DTypeLike = jnp.bfloat16,
                       ) -> optax.GradientTransformation:
  """Returns the transform from gradients to updates (without sign, learning rate, decay).

  Args:
    beta1: of the first moment.
    beta2: the highest decay of the second moment; 0.999 is reached at t = 5624.
    momentum_dtype: of the stored first moment.
  """
  return optax.chain(
      optax.scale_by_factored_rms(
          min_dim_size_to_factor=MIN_DIM_TO_FACTOR, epsilon=EPSILON,
          decay_rate_fn=lambda count, _: second_moment_decay(count, beta2)),
      moments.store_as(optax.ema(beta1, debias=False), "ema", momentum_dtype),
  )
