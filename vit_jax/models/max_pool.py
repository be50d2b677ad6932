"""Max pooling."""

import jax
import jax.numpy as jnp


def _along(x: jax.Array, axis: int, padding: float) -> jax.Array:
  pads = [(0, 0)] * x.ndim
  pads[axis] = (1, 1)
  windows = (x.shape[axis] - 1) // 2 + 1
  x = jnp.pad(x, pads, constant_values=padding)
  first, second, third = (
    jax.lax.slice_in_dim(x, start, start + 2 * windows - 1, 2, axis) for start in range(3)
  )
  return jnp.maximum(jnp.maximum(first, second), third)


def max_pool(x: jax.Array, padding: float = -jnp.inf) -> jax.Array:
  """Returns the maxima of 3 x 3 windows with stride 2, one pixel of padding on every side.

  The same as `nn.max_pool`, whose gradient takes 4 times as long on CPU: XLA looks for the maximum
  of every window again. Where several values of a window are equal, they share the gradient.

  Args:
    x: float [B, H, W, C].
    padding: what is around the image; the default is never a maximum.

  Returns:
    [B, ceil(H / 2), ceil(W / 2), C].
  """
  return _along(_along(x, 1, padding), 2, padding)
