"""Resizing against loops over every output, and against PyTorch, timm and SciPy."""

import math

import numpy as np
import pytest
import scipy.ndimage

from vit_jax.errors import UserError
from vit_jax.pretrained import resize

SIZES = [(14, 24), (24, 14), (7, 8), (16, 3), (5, 1), (1, 4), (3, 6)]
each_size = pytest.mark.parametrize(("old", "new"), SIZES)


def cubic(x, a):
  x = abs(x)
  if x <= 1:
    return (a + 2) * x**3 - (a + 3) * x**2 + 1
  return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def one_line(values, new, method):
  """Resizes a list of numbers, one output at a time."""
  old, out = len(values), []
  for i in range(new):
    if method == "zoom":
      at = i * (old - 1) / (new - 1) if new > 1 else 0.0
      left = min(int(at), max(old - 2, 0))
      right = min(left + 1, old - 1)
      out.append(values[left] * (1 - (at - left)) + values[right] * (at - left))
      continue
    at = (i + 0.5) * old / new - 0.5
    if method.endswith("plain"):
      reach = range(math.floor(at) - 1, math.floor(at) + 3)
      kernel = (lambda x: cubic(x, -0.75)) if "cubic" in method else (lambda x: max(0, 1 - abs(x)))
      out.append(sum(kernel(at - j) * values[min(max(j, 0), old - 1)] for j in reach))
    else:
      stretch = max(1, old / new)
      kernel = (lambda x: cubic(x, -0.5)) if "cubic" in method else (lambda x: max(0, 1 - abs(x)))
      w = [kernel((j - at) / stretch) for j in range(old)]
      out.append(sum(a * b for a, b in zip(w, values, strict=True)) / sum(w))
  return out


def one_image(image, new, method):
  rows = np.array([one_line(list(row), new, method) for row in image])
  return np.array([one_line(list(column), new, method) for column in rows.T]).T


def table_of(count, channels=3, seed=0):
  return np.random.default_rng(seed).normal(size=(1, count, channels)).astype(np.float32)


@each_size
@pytest.mark.parametrize("method", list(resize.METHODS))
def test_each_output_is_the_weighted_sum_that_the_method_says(old, new, method):
  table = table_of(2 + old * old)
  got = resize.positions(table, (1, 2 + new * new, 3), method, prefix=2)
  assert got.dtype == np.float32
  assert got.shape == (1, 2 + new * new, 3)
  np.testing.assert_array_equal(got[:, :2], table[:, :2])
  for c in range(3):
    expected = one_image(table[0, 2:, c].reshape(old, old), new, method)
    np.testing.assert_allclose(got[0, 2:, c].reshape(new, new), expected, atol=2e-6)


def test_methods_are_far_apart():
  table = np.random.default_rng(0).uniform(size=(1, 196, 8)).astype(np.float32)
  results = [resize.positions(table, (1, 576, 8), m) for m in ("bicubic", "bicubic_plain", "zoom")]
  for i in range(3):
    assert np.abs(results[i] - results[i - 1]).max() > 0.05


@each_size
def test_zoom_is_scipys(old, new):
  if old == 1:
    pytest.skip("SciPy keeps one value one value")
  grid = table_of(old * old)[0].reshape(old, old, 3)
  expected = scipy.ndimage.zoom(grid, (new / old, new / old, 1), order=1)
  got = resize.positions(grid.reshape(1, -1, 3), (1, new * new, 3), "zoom")
  np.testing.assert_allclose(got.reshape(expected.shape), expected, atol=1e-6)


def test_the_same_size_is_the_same_array():
  table = table_of(17)
  assert resize.positions(table, (1, 17, 3), "bicubic", prefix=1) is table
  biases = table_of(9)[0]
  assert resize.bias_table(biases, (9, 3), "bicubic") is biases


@pytest.mark.parametrize("method", list(resize.METHODS))
def test_a_constant_stays(method):
  table = np.full((1, 49, 2), 3.5, np.float32)
  np.testing.assert_allclose(resize.positions(table, (1, 25, 2), method), 3.5, rtol=1e-6)


def test_bias_tables_are_one_image_for_each_head():
  table = table_of(13 * 13, 4)[0]
  got = resize.bias_table(table, (23 * 23, 4), "bicubic")  # as Swin's own code does it
  for h in range(4):
    expected = one_image(table[:, h].reshape(13, 13), 23, "bicubic_plain")
    np.testing.assert_allclose(got[:, h].reshape(23, 23), expected, atol=2e-6)


def test_mistakes_are_one_line():
  with pytest.raises(UserError, match="a table of positions of 12 entries is not a square grid"):
    resize.positions(table_of(12), (1, 16, 3), "bicubic")
  with pytest.raises(UserError, match="of 17 entries is not a square"):
    resize.positions(table_of(16), (1, 17, 3), "bicubic")
  with pytest.raises(UserError, match="of relative positions of 8 entries"):
    resize.bias_table(table_of(8)[0], (9, 3), "bicubic")
  with pytest.raises(UserError, match="unknown interpolation 'lanczos': choose one of bicubic, "):
    resize.positions(table_of(16), (1, 25, 3), "lanczos")


@pytest.mark.torch
@each_size
@pytest.mark.parametrize("method", ["bicubic", "bilinear", "bicubic_plain", "bilinear_plain"])
def test_torch_agrees(old, new, method):
  torch = pytest.importorskip("torch")
  table = table_of(old * old)
  image = torch.tensor(table.reshape(1, old, old, 3)).permute(0, 3, 1, 2)
  expected = torch.nn.functional.interpolate(
    image,
    size=(new, new),
    mode=method.removesuffix("_plain"),
    antialias=not method.endswith("_plain"),
    align_corners=False,
  )
  got = resize.positions(table, (1, new * new, 3), method)
  expected = expected.permute(0, 2, 3, 1).reshape(1, -1, 3).numpy()
  np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.torch
@pytest.mark.parametrize("method", ["bicubic", "bilinear"])
def test_timm_agrees(method):
  torch = pytest.importorskip("torch")
  layers = pytest.importorskip("timm.layers")
  table = table_of(2 + 196)
  for side in (24, 7):
    expected = layers.resample_abs_pos_embed(
      torch.tensor(table), [side, side], num_prefix_tokens=2, interpolation=method
    )
    got = resize.positions(table, (1, 2 + side * side, 3), method, prefix=2)
    np.testing.assert_allclose(got, expected, atol=1e-5)
