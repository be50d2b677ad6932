import math

import numpy as np
import pytest
from pictures import distance, photo

from vit_jax.data import affine

Image = pytest.importorskip("PIL.Image")
_FILL = (10, 120, 250)


def _pillow(picture, matrix, resample):
  flat = [x for row in matrix for x in row]
  return np.asarray(
    Image.fromarray(picture).transform(
      picture.shape[1::-1], Image.Transform.AFFINE, flat, resample, fillcolor=_FILL
    )
  )


@pytest.mark.parametrize("shape", [(48, 40), (31, 64)])
@pytest.mark.parametrize(
  "matrix",
  [
    affine.shear_x(0.27),
    affine.shear_y(-0.3),
    affine.translation(7.3, -4.6),
    affine.rotation(48, 40, 13),
    ((0.913, 0.107, 2.031), (-0.211, 1.093, 3.547)),
  ],
)
def test_warp_equals_pillows(matrix, shape):
  picture = photo(*shape)
  nearest = Image.Resampling.NEAREST
  got = affine.warp(picture, matrix, _FILL, "nearest")
  assert np.mean(got != _pillow(picture, matrix, nearest)) < 0.002  # ties between two pixels
  # One level off where Pillow cuts fractions, and the ring that is blended with the fill.
  got = affine.warp(picture, matrix, _FILL, "bilinear").astype(int)
  ring = np.abs(got - _pillow(picture, matrix, Image.Resampling.BILINEAR)).max(-1)
  assert np.quantile(ring, 0.9) <= 1
  assert distance(got, affine.warp(picture, matrix, _FILL, "bicubic"))[1] < 3


@pytest.mark.parametrize("degrees", [-30, 5, 90])
def test_rotation_equals_pillows(degrees):
  picture = photo()
  got = affine.warp(picture, affine.rotation(48, 40, degrees), _FILL, "nearest")
  expected = Image.fromarray(picture).rotate(degrees, Image.Resampling.NEAREST, fillcolor=_FILL)
  assert np.mean(got != np.asarray(expected)) < 0.01


def test_whole_pixels_move_exactly():
  picture = photo()
  for kernel in ("nearest", "bilinear", "bicubic"):
    moved = affine.warp(picture, affine.translation(3, -2), (9,), kernel)
    np.testing.assert_array_equal(moved[2:, :-3], picture[:-2, 3:])
    assert (moved[:2] == 9).all()
    assert (moved[:, -3:] == 9).all()
  np.testing.assert_array_equal(
    affine.warp(photo(20, 20), affine.rotation(20, 20, 90), (0,), "nearest"),
    np.rot90(photo(20, 20)),
  )


def test_grey_images_and_wrong_fills():
  grey = photo(channels=1)
  matrix = affine.rotation(48, 40, math.pi)
  got = affine.warp(grey, matrix, (5,), "bilinear")
  assert got.shape == grey.shape
  rgb = affine.warp(grey.repeat(3, -1), matrix, (5,), "bilinear")
  assert distance(got[..., 0], rgb[..., 0])[0] <= 1
  with pytest.raises(ValueError, match="has 3 numbers and the image 1 channels"):
    affine.warp(grey, matrix, _FILL, "bilinear")
