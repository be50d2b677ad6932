"""What the device makes of images is what the host makes of them, for every operation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pictures import photo

from vit_jax.data.device.registry import REGISTRY
from vit_jax.data.device.transform import Transform
from vit_jax.data.device.uniforms import positions
from vit_jax.data.transforms import Transform as HostTransform
from vit_jax.errors import UserError

_COUNT, _SEED, _STEP = 128, 7, 40_000_000  # at positions beyond 32 bits


@pytest.fixture(autouse=True)
def optimized():
  """Equal to the last level is what the programs are that users run; see conftest.py."""
  before = jax.config.values["jax_disable_most_optimizations"]
  jax.config.update("jax_disable_most_optimizations", False)
  yield
  jax.config.update("jax_disable_most_optimizations", before)


def _images(channels=3, height=32, width=32):
  """Half of them smooth, half noise of all levels."""
  images = np.stack([photo(height, width, k, channels=channels) for k in range(_COUNT)])
  noise = np.random.default_rng(0).integers(0, 256, images[::2].shape)
  images[::2] = noise
  return images


def _both(text, images):
  host = HostTransform(text)(images, _SEED, _STEP * _COUNT + np.arange(_COUNT))
  transform = Transform(text)
  run = jax.jit(lambda images, step: transform(images, _SEED, positions(step, _COUNT)))
  device = np.asarray(run(images, jnp.int32(_STEP)))
  assert device.dtype == host.dtype
  return host.astype(np.float64), device.astype(np.float64)


@pytest.mark.parametrize(
  "text",
  [
    "random_crop(32, pad=4)",
    "random_crop(28, pad=4, mode='reflect')",
    "central_crop(20)",
    "flip",
    "random_crop(32, pad=4)|flip",
    "random_erasing(0.8, mode='constant', value=3)",
    "random_erasing(1.0, 0.3, 1.0, mode='constant')",
    "cutout(9, 5)",
    "color_jitter(0.4, 0.4, 0.4, probability=0.8)",
    "grayscale(0.5)",
    "randaugment(2, 9, interpolation='nearest')",
  ],
)
def test_levels_are_equal(text):
  host, device = _both(text, _images())
  np.testing.assert_array_equal(device, host)


@pytest.mark.parametrize(
  ("text", "tolerance"),
  [
    ("value_range(-1, 1)", 1e-6),
    ("random_crop(32, pad=4)|flip|normalize('cifar10')", 1e-6),
    ("normalize(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))|cutout(16)", 1e-6),
    ("normalize('cifar10')|random_erasing(0.8)", 2e-3),  # float32 noise from 24 bits
    ("normalize('cifar10')|random_erasing(0.8, mode='color')", 2e-3),
  ],
)
def test_numbers_are_equal_to_rounding(text, tolerance):
  host, device = _both(text, _images())
  np.testing.assert_allclose(device, host, atol=tolerance, rtol=0)


@pytest.mark.parametrize(
  ("text", "share"),
  [
    ("random_resized_crop(32, 0.08)", 0.001),
    ("random_resized_crop(32, 0.8, interpolation='random')", 0.1),
    ("random_resized_crop(20, 0.08, interpolation='bilinear')", 0.1),
    ("random_resized_crop(20, 0.3, antialias=False)", 0.001),
    ("randaugment(1, 9, 0, 1.0)", 0.001),
    ("randaugment(2, 9, interpolation='random', fill=(125, 123, 114))", 0.001),
  ],
)
def test_resampled_levels_differ_by_one_at_most(text, share):
  """`share` of the values may; OpenCV's bilinear resizing rounds its weights to 11 bits."""
  host, device = _both(text, _images())
  difference = np.abs(device - host)
  assert difference.max() <= 1
  assert (difference > 0).mean() < share


def test_where_no_box_fits_it_is_the_largest_in_the_middle():
  square = "random_resized_crop(24, 0.99, min_aspect=1.0, max_aspect=1.0)"
  for text in ("random_resized_crop(24, 0.99)", square):
    for height, width in ((24, 40), (40, 24)):
      host, device = _both(text, _images(height=height, width=width))
      assert np.abs(device - host).max() <= 1


def test_a_level_more_is_carried_on_by_what_comes_after_it():
  """Equalize and solarize after a rotation make more of the one level, of few pixels."""
  for text in (
    "autoaugment_cifar()",
    "random_resized_crop(32, 0.8)|flip|randaugment(2, 9, interpolation='random')",
  ):
    host, device = _both(text, _images())
    difference = np.abs(device - host)
    assert (difference > 1).mean() < 1e-3
    assert (difference > 0).mean() < 0.01


def test_oblong_and_grey_images():
  for text in ("random_resized_crop(24)", "randaugment(3, 9)", "random_crop(20)|flip"):
    host, device = _both(text, _images(height=40, width=28))
    assert np.abs(device - host).max() <= 1
  grey = _images(channels=1)
  for text in ("randaugment(2, 9)", "color_jitter(0.4, 0.4, 0.4)", "normalize(mean=0.5, std=0.2)"):
    host, device = _both(text, grey)
    assert np.abs(device - host).max() <= 1


def test_every_operation_has_been_compared():
  compared = """random_crop central_crop flip random_erasing cutout color_jitter grayscale
    randaugment value_range normalize random_resized_crop autoaugment_cifar"""
  assert set(REGISTRY) == set(compared.split())


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("inception_crop(32)", "transform inception_crop has no device version; autoaugment_cifar, "),
    ("flop", "unknown transform 'flop'"),
    ("random_crop(32, pad=-1)", "pad=-1 must be at least 0"),
    ("random_crop(32, 4.5)", "pad=4.5 must be of type int"),
    ("color_jitter(hue=0.1)", "hue=0.1 has no device version"),
    ("random_resized_crop(32, interpolation='area')", "'area' has no device version: use one of"),
  ],
)
def test_mistakes_are_named(text, message):
  with pytest.raises(UserError, match=message.replace("(", r"\(")):
    Transform(text)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("random_crop(64)", "an image of 32 x 32 pixels is smaller than size=64"),
    ("normalize|randaugment", "put it before value_range and normalize"),
    ("normalize|value_range", "use only one of value_range and normalize"),
    ("random_erasing", "put it after normalize"),
    ("normalize(mean=(0.5, 0.5), std=(1, 1))", "2 means and deviations do not fit 3 channels"),
    ("randaugment(fill=(1, 2))", "has 2 numbers and the image 3 channels"),
  ],
)
def test_images_that_do_not_fit_are_refused(text, message):
  transform = Transform(text)
  with pytest.raises(UserError, match=message):
    jax.eval_shape(lambda images: transform(images, 0, positions(jnp.int32(0), _COUNT)), _images())
