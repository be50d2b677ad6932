import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vit_jax.data import images
from vit_jax.data.crops import crop_box, resized_box
from vit_jax.data.transforms import Transform, usages
from vit_jax.data.uniforms import uniforms
from vit_jax.errors import UserError


def _pixels(n=6, h=10, w=12, c=3, seed=0):
  return np.random.default_rng(seed).integers(0, 256, (n, h, w, c), dtype=np.uint8)


def _run(text, batch, seed=5, start=100):
  return Transform(text)(batch, seed, start + np.arange(len(batch)))


@pytest.mark.parametrize(
  "text",
  [
    "random_crop(8, pad=2)|flip|normalize('cifar10')",
    "random_crop(14, pad=4, mode='reflect')|value_range(0, 1)",
    "inception_crop(9)|flip|value_range(-1, 1)",
    "inception_crop(9, interpolation='bicubic', antialias=True)",
    "resize_small(11)|central_crop(8)|flip",
    "resize(7)|random_crop(5)|normalize(mean=0.5, std=0.25)",
    "random_resized_crop(9, interpolation='random')|color_jitter(0.4, 0.4, 0.4, 0.1)",
    "randaugment|flip|normalize|random_erasing(0.8)",
    "autoaugment_cifar|grayscale(0.5)|value_range|cutout(4)|random_erasing(0.5, mode='color')",
  ],
)
def test_an_image_gets_the_same_alone_in_a_batch_and_in_a_list(text):
  batch = _pixels()
  whole = _run(text, batch)
  np.testing.assert_array_equal(whole, _run(text, list(batch)))
  for i, image in enumerate(batch):
    np.testing.assert_array_equal(whole[i], _run(text, image[None], start=100 + i)[0])
  assert not np.array_equal(whole, _run(text, batch[::-1])[::-1])


def test_randomness_is_keyed_by_seed_and_position():
  batch = _pixels(n=64)
  text = "random_crop(8, pad=4)|flip"
  assert not np.array_equal(_run(text, batch), _run(text, batch, seed=6))
  assert not np.array_equal(_run(text, batch), _run(text, batch, start=101))


@pytest.mark.parametrize("mode", ["zero", "reflect"])
def test_random_crop_and_flip_equal_a_plain_loop(mode):
  batch, size, pad = _pixels(n=40), 9, 3
  got = _run(f"random_crop({size}, pad={pad}, mode='{mode}')|flip", batch)
  positions = 100 + np.arange(len(batch))
  u_crop, u_flip = uniforms(5, 0, positions, 2), uniforms(5, 1, positions, 1)
  for i, image in enumerate(batch):
    padded = np.pad(
      image, ((pad, pad), (pad, pad), (0, 0)), mode="constant" if mode == "zero" else "reflect"
    )
    y = math.floor(u_crop[i, 0] * (10 + 2 * pad - size + 1))
    x = math.floor(u_crop[i, 1] * (12 + 2 * pad - size + 1))
    expected = padded[y : y + size, x : x + size]
    if u_flip[i, 0] < 0.5:
      expected = expected[:, ::-1]
    np.testing.assert_array_equal(got[i], expected)


def test_random_crop_reaches_every_place_equally_often():
  image = np.arange(9, dtype=np.uint8).reshape(1, 3, 3, 1)
  corners = _run("random_crop(1)", np.repeat(image, 9000, 0))[:, 0, 0, 0]
  counts = np.bincount(corners, minlength=9)
  assert ((counts - 1000) ** 2 / 1000).sum() < 32  # 8 degrees of freedom, 1 in 10,000


def test_flip_happens_half_the_time():
  image = np.array([0, 1], np.uint8).reshape(1, 1, 2, 1)
  assert abs(_run("flip", np.repeat(image, 10_000, 0))[:, 0, 0, 0].mean() - 0.5) < 0.02


@pytest.mark.parametrize("channels", [1, 3])
def test_value_range_maps_the_ends_of_the_scale(channels):
  batch = _pixels(c=channels)
  got = _run("value_range(-1, 3)", batch)
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, batch / 255 * 4 - 1, atol=1e-6)


@pytest.mark.parametrize(
  ("text", "mean", "std"),
  [
    ("normalize", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ("normalize('cifar10')", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    ("normalize(mean=(0.1, 0.2, 0.3), std=(1, 2, 3))", (0.1, 0.2, 0.3), (1, 2, 3)),
    ("normalize(mean=0.5, std=0.25)", (0.5,) * 3, (0.25,) * 3),
  ],
)
def test_normalize(text, mean, std):
  batch = _pixels()
  expected = (batch / 255 - np.array(mean)) / np.array(std)
  np.testing.assert_allclose(_run(text, batch), expected, atol=2e-6)


def test_central_crop_is_central():
  batch = _pixels(h=11, w=8)
  np.testing.assert_array_equal(_run("central_crop(5)", batch), batch[:, 3:8, 1:6])


def _bilinear(image, height, width):
  """Samples at pixel centres, edges repeated, no antialiasing."""
  h, w, _ = image.shape
  y = np.clip((np.arange(height) + 0.5) * h / height - 0.5, 0, h - 1)
  x = np.clip((np.arange(width) + 0.5) * w / width - 0.5, 0, w - 1)
  y0, x0 = np.floor(y).astype(int), np.floor(x).astype(int)
  y1, x1 = np.minimum(y0 + 1, h - 1), np.minimum(x0 + 1, w - 1)
  fy, fx = (y - y0)[:, None, None], (x - x0)[None, :, None]
  image = image.astype(float)
  top = image[y0][:, x0] * (1 - fx) + image[y0][:, x1] * fx
  bottom = image[y1][:, x0] * (1 - fx) + image[y1][:, x1] * fx
  return top * (1 - fy) + bottom * fy


@pytest.mark.parametrize("size", [(5, 5), (7, 20), (31, 23)])
def test_bilinear_resize_is_not_antialiased(size):
  image = _pixels(1, 13, 17)[0]
  got = images.resize(image, *size)
  assert np.abs(got - _bilinear(image, *size)).max() <= 1  # OpenCV rounds its weights
  if size == (5, 5):
    smooth = images.resize(image, *size, antialias=True)
    assert np.abs(smooth - _bilinear(image, *size)).max() > 10


def test_area_resize_averages():
  image = _pixels(1, 12, 8)[0]
  expected = image.reshape(4, 3, 4, 2, 3).mean((1, 3))
  assert np.abs(images.resize(image, 4, 4, "area") - expected).max() <= 0.51
  assert np.abs(images.resize(image, 4, 4, antialias=True) - expected).max() <= 0.51


def test_resize_small_keeps_the_aspect_ratio():
  assert _run("resize_small(20)", _pixels(h=10, w=15)).shape[1:3] == (20, 30)
  assert _run("resize_small(5)", _pixels(h=16, w=10)).shape[1:3] == (8, 5)


@given(st.integers(4, 300), st.integers(4, 300), st.integers(0, 10**6))
def test_inception_boxes_keep_area_and_aspect_and_stay_inside(h, w, position):
  u = uniforms(0, 0, np.array([position]), 22)[0]
  y, x, box_h, box_w = crop_box(h, w, u, (0.05, 1.0), (0.75, 4 / 3))
  assert 0 <= y <= y + box_h <= h
  assert 0 <= x <= x + box_w <= w
  if (y, x, box_h, box_w) != (0, 0, h, w):
    assert 0.05 * h * w <= box_h * box_w <= h * w
    assert 0.75 * box_h - 0.5 <= box_w <= 4 / 3 * box_h + 0.5


def test_inception_boxes_are_distributed_as_published():
  boxes = np.array(
    [crop_box(200, 200, u, (0.05, 1.0), (0.75, 4 / 3)) for u in uniforms(1, 0, np.arange(4000), 22)]
  )
  area, ratio = boxes[:, 2] * boxes[:, 3] / 200**2, boxes[:, 3] / boxes[:, 2]
  # Independent of `crop_box`: the aspect is uniform, then the height between its two bounds.
  rng = np.random.default_rng(0)
  r = rng.uniform(0.75, 4 / 3, 200_000)
  low, high = np.sqrt(0.05 / r), np.minimum(np.minimum(1, 1 / r), np.sqrt(1 / r))
  height = rng.uniform(low, high)
  for q in (0.1, 0.25, 0.5, 0.75, 0.9):
    assert abs(np.quantile(area, q) - np.quantile(height**2 * r, q)) < 0.03
    assert abs(np.quantile(ratio, q) - np.quantile(r, q)) < 0.03
  assert area.min() >= 0.05
  assert area.max() > 0.9


def test_resized_boxes_are_distributed_as_torchvisions():
  boxes = np.array(
    [
      resized_box(200, 240, u, (0.08, 1.0), (0.75, 4 / 3))
      for u in uniforms(1, 0, np.arange(4000), 23)
    ]
  )
  y, x, box_h, box_w = boxes.T
  assert y.min() == x.min() == 0
  assert (y + box_h).max() == 200
  assert (x + box_w).max() == 240
  assert 0.079 < (box_h * box_w).min() / 48_000 < 0.1
  # Independent of `resized_box`: draw again what does not fit, here within any number of tries.
  rng = np.random.default_rng(0)
  area = rng.uniform(0.08, 1, 200_000) * 48_000
  ratio = np.exp(rng.uniform(math.log(0.75), math.log(4 / 3), area.shape))
  fits = (np.sqrt(area * ratio) <= 240) & (np.sqrt(area / ratio) <= 200)
  for q in (0.1, 0.25, 0.5, 0.75, 0.9):
    assert abs(np.quantile(box_h * box_w, q) - np.quantile(area[fits], q)) < 0.02 * 48_000
    assert abs(np.quantile(box_w / box_h, q) - np.quantile(ratio[fits], q)) < 0.03


def test_resized_boxes_take_the_middle_where_nothing_fits():
  u = uniforms(0, 0, np.array([0]), 23)[0]
  assert resized_box(20, 400, u, (0.9, 1.0), (0.75, 4 / 3)) == (0, 186, 20, 27)
  assert resized_box(400, 20, u, (0.9, 1.0), (0.75, 4 / 3)) == (186, 0, 27, 20)
  assert resized_box(50, 50, u, (1.0, 1.0), (1.0, 1.0)) == (0, 0, 50, 50)
  assert resized_box(100, 100, u, (0.02, 0.02), (2.0, 2.0))[2:] == (10, 20)  # twice as wide as high


def test_resized_crops_take_both_interpolations_equally_often():
  image = _pixels(1, 16, 16)
  kinds = {
    kind: _run(f"random_resized_crop(8, 1, 1, 1, 1, '{kind}', False)", image)[0]
    for kind in ("bilinear", "bicubic")
  }
  got = _run("random_resized_crop(8, 1, 1, 1, 1, 'random', False)", np.repeat(image, 2000, 0))
  shares = [(got == k).all((1, 2, 3)).mean() for k in kinds.values()]
  assert abs(shares[0] - 0.5) < 0.04
  assert abs(sum(shares) - 1) < 1e-9


def test_an_impossible_crop_takes_the_whole_image():
  u = uniforms(0, 0, np.array([0]), 22)[0]
  assert crop_box(2, 400, u, (0.9, 1.0), (0.75, 4 / 3)) == (0, 0, 2, 400)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("randomcrop(8)", "unknown transform 'randomcrop': did you mean 'random_crop'"),
    ("frobnicate", "choose one of autoaugment_cifar, central_crop"),
    ("random_crop(8, padding=2)", "unexpected keyword argument 'padding'; it takes random_crop"),
    ("random_crop", "missing a required argument: 'size'"),
    ("random_crop(8, mode='mirror')", "mode='mirror' must be 'zero' or 'reflect'"),
    ("random_crop('8')", "size='8' must be of type int"),
    ("resize(0)", "size=0 must be at least 1"),
    ("resize(8, 'cubic')", "interpolation='cubic' must be one of nearest, bilinear"),
    ("inception_crop(8, min_area=0)", "needs 0 < min_area"),
    ("random_resized_crop(8, max_area=2)", "needs 0 < min_area"),
    ("random_resized_crop(8, interpolation='any')", "interpolation='any' must be one of"),
    ("normalize('imagnet')", "preset='imagnet' must be one of cifar10, imagenet"),
    ("normalize(mean=(1, 2), std=3)", "as many numbers each"),
    ("normalize(mean='x')", "must be numbers"),
  ],
)
def test_a_wrong_text_gives_one_line(text, message):
  with pytest.raises(UserError) as e:
    Transform(text)
  assert message in str(e.value)
  assert "\n" not in str(e.value)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("central_crop(11)", "10 x 12 pixels is smaller than size=11"),
    ("random_crop(20, pad=1)", "pad=1 are smaller than size=20"),
    ("normalize|value_range", "only one of value_range and normalize"),
    ("normalize(mean=(1, 2), std=(1, 2))", "do not fit 3 channels"),
  ],
)
def test_images_that_do_not_fit_give_one_line(text, message):
  with pytest.raises(UserError, match=message):
    _run(text, _pixels())


_DEIT = (
  "random_resized_crop(24)|flip|randaugment(2, 9, mstd=0.5, fill=(124, 116, 104))|normalize"
  "|random_erasing(0.25, mode='pixel')"
)
_CCT = (
  "random_resized_crop(24, 0.8, 1.0, interpolation='random')|flip|randaugment(2, 9, "
  "interpolation='random', fill=(125, 123, 114))|normalize('cifar10')"
)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
  "text",
  [
    _DEIT,
    _CCT,
    "autoaugment_cifar|random_crop(24, pad=4)|flip|normalize('cifar10')|cutout(8)",
    "random_resized_crop(24)|color_jitter(0.4, 0.4, 0.4, 0.1, 0.8)|grayscale(0.2)|flip|value_range",
    "inception_crop(24, 0.05)|flip|randaugment(2, 15, mstd=0, probability=1, max_m=15)|value_range",
  ],
)
def test_recipes_leave_the_images_as_they_are_and_give_numbers(text, channels):
  if channels == 1:
    text = text.replace("normalize('cifar10')", "value_range").replace("normalize", "value_range")
    text = text.replace("(124, 116, 104)", "124").replace("(125, 123, 114)", "125")
  batch = _pixels(n=80, h=30, w=26, c=channels)
  before = batch.copy()
  batch.flags.writeable = False  # as images that are kept in memory or mapped from a file may be
  for images_ in (batch, list(batch)):
    got = _run(text, images_)
    assert (got.shape, got.dtype) == ((80, 24, 24, channels), np.float32)
    assert np.isfinite(got).all()
    # At m = 15 two translations may move all of an image out of sight.
    assert len(np.unique(got.reshape(80, -1), axis=0)) >= (78 if "(2, 15" in text else 80)
  np.testing.assert_array_equal(batch, before)


def test_unequal_images_need_a_resize():
  mixed = [_pixels(1, 10, 10)[0], _pixels(1, 12, 10)[0]]
  with pytest.raises(UserError, match="images of different sizes, such as .10, 10, 3. and .12"):
    _run("flip", mixed)
  assert _run("flip|resize(8)|flip", mixed).shape == (2, 8, 8, 3)


def test_usages_name_every_argument():
  assert usages()["random_crop"].startswith("random_crop(size: int, pad: int = 0, mode: str")
