"""Tables of positions at another resolution.

Projects resize differently, and the results are far apart: on a table that is uniform in 0..1, 14
to 24 positions, by up to 0.6. `METHODS` says what each name does.
"""

import math

import numpy as np

from vit_jax.errors import UserError

Shape = tuple[int, ...]

METHODS = {
  "bicubic": "cubic (a = -0.5) that widens when it shrinks; timm's bicubic with antialias",
  "bilinear": "a triangle that widens when it shrinks; timm's bilinear with antialias",
  "bicubic_plain": "cubic (a = -0.75) of 4 x 4 neighbours; PyTorch's interpolate, as DeiT, Swin",
  "bilinear_plain": "of 2 x 2 neighbours; PyTorch's interpolate, as Compact-Transformers",
  "zoom": "linear with the corners kept; scipy.ndimage.zoom of order 1, as Google's code",
}


def check_method(method: str) -> None:
  """Raises UserError for an unknown method."""
  if method not in METHODS:
    raise UserError(f"unknown interpolation '{method}': choose one of {', '.join(METHODS)}")


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
  """The convolution kernel of Keys (1981) with parameter a; support 2."""
  x = np.abs(x)
  near = ((a + 2) * x - (a + 3)) * x * x + 1
  far = a * (((x - 5) * x + 8) * x - 4)
  return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _triangle(x: np.ndarray) -> np.ndarray:
  return np.maximum(0.0, 1.0 - np.abs(x))


def weights(old: int, new: int, method: str) -> np.ndarray:
  """Returns the float64 matrix [new, old] that resizes one axis."""
  if method == "zoom":
    centers = np.linspace(0, old - 1, new)
  else:
    centers = (np.arange(new) + 0.5) * old / new - 0.5
  if method in ("bicubic", "bilinear"):
    # A shrinking filter covers as much of the old axis as of the new one. Beyond the border there
    # is nothing: the weights that remain are scaled to the sum 1.
    x = (np.arange(old) - centers[:, None]) / max(old / new, 1.0)
    matrix = _cubic(x, -0.5) if method == "bicubic" else _triangle(x)
    return matrix / matrix.sum(1, keepdims=True)
  # Beyond the border there is the border's value: what falls there is added to it.
  margin = 2
  x = np.arange(-margin, old + margin) - centers[:, None]
  matrix = _cubic(x, -0.75) if method == "bicubic_plain" else _triangle(x)
  inner = matrix[:, margin : margin + old].copy()
  inner[:, 0] += matrix[:, :margin].sum(1)
  inner[:, -1] += matrix[:, margin + old :].sum(1)
  return inner


def _side(count: int, what: str) -> int:
  side = math.isqrt(max(count, 0))
  if side < 1 or side * side != count:
    raise UserError(f"{what} of {count} entries is not a square grid, which alone can be resized")
  return side


def _grid(rows: np.ndarray, count: int, method: str, what: str) -> np.ndarray:
  """Resizes [old * old, D] to float32 [count, D]."""
  check_method(method)
  old, new = _side(len(rows), what), _side(count, what)
  matrix = weights(old, new, method)
  grid = rows.reshape(old, old, -1).astype(np.float64)
  grid = np.einsum("yr,xc,rcd->yxd", matrix, matrix, grid, optimize=True)
  return grid.reshape(count, -1).astype(np.float32)


def positions(table: np.ndarray, shape: Shape, method: str, *, prefix: int = 0) -> np.ndarray:
  """Resizes a table of position embeddings whose grid is square.

  Args:
    table: [1, prefix + N, D] (or with any axes of size 1 before the last two).
    shape: that of the result: as `table` with another N.
    method: one of METHODS.
    prefix: the number of tokens before the grid, whose rows stay as they are.

  Raises:
    UserError: an unknown method, or one of the grids is not square.
  """
  if table.shape == shape:
    return table
  rows = table.reshape(-1, table.shape[-1])
  grid = _grid(rows[prefix:], shape[-2] - prefix, method, "a table of positions")
  return np.concatenate([rows[:prefix].astype(np.float32), grid]).reshape(shape)


def bias_table(table: np.ndarray, shape: Shape, method: str) -> np.ndarray:
  """Resizes a table of relative position biases, an image of (2w - 1) x (2w - 1) for each head.

  Args:
    table: [(2w - 1)^2, H] for windows of w x w tokens, row by row.
    shape: [(2v - 1)^2, H], that of the result.
    method: one of METHODS; "bicubic" and "bilinear" are here the plain ones, as Swin's own code
      resizes these tables.

  Raises:
    UserError: an unknown method, or the table is not square.
  """
  if table.shape == shape:
    return table
  plain = f"{method}_plain" if method in ("bicubic", "bilinear") else method
  return _grid(table, shape[0], plain, "a table of relative positions").reshape(shape)
