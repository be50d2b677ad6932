import colorsys
import math

import numpy as np
import pytest
from pictures import distance, photo

from vit_jax.data import tones

Image = pytest.importorskip("PIL.Image")
ImageEnhance = pytest.importorskip("PIL.ImageEnhance")
ImageOps = pytest.importorskip("PIL.ImageOps")

_PICTURES = [photo(), photo(1, 7), photo(32, 32, 1, 12, 0), np.full((5, 6, 3), 77, np.uint8)]


@pytest.mark.parametrize("picture", _PICTURES, ids=lambda p: str(p.shape))
@pytest.mark.parametrize("factor", [0.0, 0.1, 1.0, 1.9, 2.8])
@pytest.mark.parametrize(
  ("ours", "theirs"),
  [
    ("brightness", "Brightness"),
    ("contrast", "Contrast"),
    ("saturation", "Color"),
    ("sharpness", "Sharpness"),
  ],
)
def test_blends_equal_pillows_up_to_rounding(ours, theirs, factor, picture):
  expected = getattr(ImageEnhance, theirs)(Image.fromarray(picture)).enhance(factor)
  # A luma or mean that is rounded the other way is multiplied by 1 - factor.
  assert distance(getattr(tones, ours)(picture, factor), expected)[0] <= math.ceil(
    1 + abs(1 - factor)
  )
  if factor == 1:
    np.testing.assert_array_equal(getattr(tones, ours)(picture, factor), picture)


@pytest.mark.parametrize("picture", _PICTURES, ids=lambda p: str(p.shape))
@pytest.mark.parametrize("name", ["autocontrast", "equalize", "invert"])
def test_histograms_equal_pillows(name, picture):
  np.testing.assert_array_equal(
    getattr(tones, name)(picture), getattr(ImageOps, name)(Image.fromarray(picture))
  )


def test_thresholds_equal_pillows_and_never_wrap():
  every_level = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, -1)
  pillow = Image.fromarray(every_level)
  for t in (0, 1, 128, 255, 256):
    np.testing.assert_array_equal(tones.solarize(every_level, t), ImageOps.solarize(pillow, t))
  for bits in range(1, 9):
    np.testing.assert_array_equal(
      tones.posterize(every_level, bits), ImageOps.posterize(pillow, bits)
    )
  assert tones.posterize(every_level, 0).max() == 0
  for amount in (0, 11, 110, 128, 200):
    levels = every_level.astype(int)
    expected = np.where(levels < 128, np.minimum(levels + amount, 255), levels)
    np.testing.assert_array_equal(tones.solarize_add(every_level, amount), expected)


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.0, 0.25, 1 / 3])
def test_hue_turns_each_pixel(turn):
  picture = photo(9, 8, 3)
  got = tones.hue(picture, turn)
  for row, wanted in zip(picture.reshape(-1, 3) / 255, got.reshape(-1, 3), strict=True):
    h, s, v = colorsys.rgb_to_hsv(*row)
    assert np.abs(np.array(colorsys.hsv_to_rgb((h + turn) % 1, s, v)) * 255 - wanted).max() <= 1
  grey = photo(channels=1).repeat(3, -1)
  np.testing.assert_array_equal(tones.hue(grey, turn), grey)


def test_grey_images_keep_their_one_channel():
  picture = photo(channels=1)
  rgb = picture.repeat(3, -1)
  for name, arguments in {
    "brightness": (1.5,),
    "contrast": (0.4,),
    "saturation": (0.2,),
    "hue": (0.3,),
    "sharpness": (1.8,),
    "invert": (),
    "solarize": (100,),
    "solarize_add": (30,),
    "posterize": (3,),
    "autocontrast": (),
    "equalize": (),
  }.items():
    got = getattr(tones, name)(picture, *arguments)
    assert got.shape == picture.shape
    np.testing.assert_array_equal(got[..., 0], getattr(tones, name)(rgb, *arguments)[..., 1])
