"""Position embeddings that are not learned."""

import numpy as np


def sincos2d(height: int, width: int, dim: int, temperature: float = 10_000.0) -> np.ndarray:
  """Returns the sine-cosine embedding of a grid (Chen et al., 2104.02057, §5; MoCo v3).

  With q = dim / 4 frequencies w_j = temperature^(-j / (q - 1)), j = 0 ... q - 1, a patch at
  column x and row y gets sin(x w), cos(x w), sin(y w), cos(y w), in this order.

  Args:
    height: of the grid, in patches.
    width: of the grid, in patches.
    dim: of a token; a multiple of 4 and at least 8.
    temperature: the ratio of the highest to the lowest frequency.

  Returns:
    float32 [1, height * width, dim], row by row.
  """
  quarter = dim // 4
  omega = temperature ** (-np.arange(quarter) / (quarter - 1))
  y, x = np.mgrid[:height, :width]
  angles_x, angles_y = (np.einsum("m,d->md", v.ravel(), omega) for v in (x, y))
  table = [np.sin(angles_x), np.cos(angles_x), np.sin(angles_y), np.cos(angles_y)]
  return np.concatenate(table, axis=1)[None].astype(np.float32)


def sincos1d(length: int, dim: int, temperature: float = 10_000.0) -> np.ndarray:
  """Returns the sine-cosine embedding of a sequence (Vaswani et al., 1706.03762, §3.5).

  Entries 2i and 2i + 1 of position p are sin(p w) and cos(p w), w = temperature^(-2i / dim).

  Args:
    length: of the sequence.
    dim: of a token.
    temperature: nearly the ratio of the highest to the lowest frequency.

  Returns:
    float32 [1, length, dim].
  """
  i = np.arange(dim)
  angles = np.arange(length)[:, None] * temperature ** (-2 * (i // 2) / dim)
  return np.where(i % 2, np.cos(angles), np.sin(angles))[None].astype(np.float32)
