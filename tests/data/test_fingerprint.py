import numpy as np
import pytest

from vit_jax.data.fingerprint import dataset_fingerprint
from vit_jax.data.sources import ArraySource, Info


def _source(images, labels=None, name="x", encoding=None):
  n = len(images)
  labels = np.zeros(n, np.int32) if labels is None else labels
  return ArraySource(
    Info(
      name=name, split="train", num_classes=2, size=n, class_names=("a", "b"), encoding=encoding
    ),
    images,
    labels,
  )


@pytest.fixture
def pixels():
  return np.random.default_rng(0).integers(0, 256, (2000, 8, 8, 3), dtype=np.uint8)


def test_a_changed_pixel_label_order_or_size_changes_it(pixels):
  first = dataset_fingerprint(_source(pixels))
  assert first == dataset_fingerprint(_source(pixels.copy()))
  assert first.images == 1024
  altered = pixels.copy()
  altered[0, 0, 0, 0] ^= 1
  labels = np.zeros(2000, np.int32)
  labels[-1] = 1
  others = [_source(altered), _source(pixels, labels), _source(pixels[::-1]), _source(pixels[:-1])]
  digests = {dataset_fingerprint(s).sha256 for s in others} | {first.sha256}
  assert len(digests) == 5


def test_mean_and_deviation_are_those_of_the_pixels(pixels):
  found = dataset_fingerprint(_source(pixels[:500]))
  np.testing.assert_allclose(found.mean, pixels[:500].mean((0, 1, 2)) / 255, atol=1e-4)
  np.testing.assert_allclose(found.std, pixels[:500].std((0, 1, 2)) / 255, atol=1e-4)


def test_images_of_several_sizes():
  images = [
    np.zeros((4, 6, 3), np.uint8),
    np.zeros((9, 2, 3), np.uint8),
    np.zeros((3, 3, 3), np.uint8),
  ]
  assert dataset_fingerprint(_source(images)).shapes == ((3, 3, 3), (4, 6, 3))


def test_unlike_copies_of_cifar10_are_noted(pixels):
  right = (pixels * 0.001 + 255 * np.array([0.4914, 0.4822, 0.4465])).astype(np.uint8)
  assert dataset_fingerprint(_source(right, name="cifar10")).notes == ()
  (note,) = dataset_fingerprint(_source(right, name="cifar10", encoding="jpeg")).notes
  assert "stored as JPEG" in note
  (note,) = dataset_fingerprint(_source(right[..., ::-1], name="cifar10")).notes
  assert "is not that of cifar10" in note
