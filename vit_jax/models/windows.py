"""Windows of a square map: where tokens go, and which of them may look at each other.

A map of side x side tokens is cut into windows of `window` x `window` after zeros were added to its
right and bottom where the window does not divide the side. The zeros are keys like any others, not
masked (Swin's code for detection, and timm's).
"""

import jax
import jax.numpy as jnp
import numpy as np


def padded(side: int, window: int) -> int:
  """Returns the side of a map that whole windows cover."""
  return -(-side // window) * window


def partition(x: jax.Array, window: int) -> jax.Array:
  """Cuts maps [B, S, S, D] into windows [B * W, window^2, D], all of an image together.

  W is the number of windows, which go row by row, as the tokens in each.
  """
  b, side, _, d = x.shape
  pad = padded(side, window) - side
  if pad:
    x = jnp.pad(x, ((0, 0), (0, pad), (0, pad), (0, 0)))
  n = (side + pad) // window
  x = x.reshape(b, n, window, n, window, d).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(b * n * n, window * window, d)


def merge(x: jax.Array, side: int, window: int) -> jax.Array:
  """Puts windows [B * W, window^2, D] back to maps [B, side, side, D]: `partition`'s inverse."""
  n = padded(side, window) // window
  x = x.reshape(-1, n, n, window, window, x.shape[-1]).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(-1, n * window, n * window, x.shape[-1])[:, :side, :side]


def relative_positions(window: int) -> np.ndarray:
  """Returns which entry of a table [(2 window - 1)^2] belongs to each query and key of a window.

  With (dy, dx) = query - key, in tokens, it is (dy + window - 1) (2 window - 1) + dx + window - 1
  (Liu et al., 2103.14030, §3.2).

  Returns:
    int [window^2, window^2].
  """
  y, x = (v.ravel() for v in np.mgrid[:window, :window])
  dy, dx = (v[:, None] - v[None, :] + window - 1 for v in (y, x))
  return dy * (2 * window - 1) + dx


def regions(side: int, window: int, shift: int) -> np.ndarray:
  """Returns what part of the map the tokens of each window came from, after a cyclic shift.

  A shift moves the first `shift` rows and columns to the end, beside tokens that were far from
  them; only tokens with equal numbers were neighbours (2103.14030, §3.2, Fig. 4). Where zeros were
  added, the moved rows end before them, yet the last `shift` rows of the padded map are marked: so
  it is in timm (Microsoft's code for detection adds the zeros before it shifts).

  Args:
    side: of the map, before zeros are added.
    window: of a window.
    shift: in tokens, less than `window`.

  Returns:
    int [W, window^2], in the order of `partition`.
  """
  size = padded(side, window)
  part = np.zeros(size, np.int32)
  part[size - window :] = 1
  part[size - shift :] = 2
  table = 3 * part[:, None] + part[None, :]
  n = size // window
  return table.reshape(n, window, n, window).transpose(0, 2, 1, 3).reshape(n * n, window**2)
