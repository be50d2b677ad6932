"""What was read, in a few numbers: two copies of a data set that differ train different models."""

import dataclasses
import hashlib

import numpy as np

from vit_jax.data.sources import Source

_PIXELS = 2**24  # of the sample: CIFAR-sized sets give 1,024 images, ImageNet some 80
_MIN_IMAGES, _MAX_IMAGES = 64, 1024

# Published mean of the training images' channels, pixels in 0..1.
_MEANS = {"cifar10": (0.4914, 0.4822, 0.4465), "cifar100": (0.5071, 0.4865, 0.4409)}
_TOLERANCE = 0.02  # five standard errors of the mean over 1,024 images
# Sets whose originals are lossless, so that a JPEG copy is another data set.
_LOSSLESS = ("cifar10", "cifar100", "mnist", "fashion_mnist", "svhn_cropped")


@dataclasses.dataclass(frozen=True)
class Fingerprint:
  """Of a fixed sample of a source, spread evenly over it."""

  sha256: str  # 16 hex digits over shapes, pixels and labels
  images: int  # in the sample
  mean: tuple[float, ...]  # of each channel, pixels in 0..1
  std: tuple[float, ...]
  shapes: tuple[tuple[int, ...], ...]  # smallest and largest [H, W, C] by area
  notes: tuple[str, ...]  # what makes this copy unlike the published set


def dataset_fingerprint(source: Source) -> Fingerprint:
  """Reads up to 1,024 images and says what they are, in less than a second.

  Raises:
    UserError: one of them cannot be read.
  """
  n = len(source)
  (first,), _ = source.read([0])
  count = min(max(_PIXELS // (first.shape[0] * first.shape[1]), _MIN_IMAGES), _MAX_IMAGES, n)
  images, labels = source.read(np.linspace(0, n - 1, count).astype(int))
  digest = hashlib.sha256(f"{n}".encode())
  channels = first.shape[-1]
  total, squares, pixels = np.zeros(channels), np.zeros(channels), 0
  for image, label in zip(images, labels, strict=True):
    digest.update(f"{image.shape} {int(label)} ".encode())
    digest.update(np.ascontiguousarray(image).tobytes())
    flat = image.reshape(-1, channels).astype(np.float32) / 255
    total += flat.sum(0, dtype=np.float64)
    squares += np.square(flat).sum(0, dtype=np.float64)
    pixels += len(flat)
  mean = total / pixels
  std = np.sqrt(np.maximum(squares / pixels - mean**2, 0))
  by_area = sorted((image.shape for image in images), key=lambda s: (s[0] * s[1], s))
  return Fingerprint(
    sha256=digest.hexdigest()[:16],
    images=count,
    mean=tuple(round(float(x), 4) for x in mean),
    std=tuple(round(float(x), 4) for x in std),
    shapes=(by_area[0], by_area[-1]),
    notes=tuple(_notes(source, mean, count)),
  )


def _notes(source: Source, mean: np.ndarray, count: int) -> list[str]:
  info, notes = source.info, []
  if info.name in _LOSSLESS and info.encoding == "jpeg":
    notes.append(
      f"this copy of {info.name} is stored as JPEG: results can differ from those of "
      "the lossless original"
    )
  expected = _MEANS.get(info.name)
  if expected and count == _MAX_IMAGES and np.abs(mean - expected).max() > _TOLERANCE:
    found = ", ".join(f"{x:.3f}" for x in mean)
    notes.append(
      f"the mean pixel ({found}) is not that of {info.name} "
      f"({', '.join(f'{x:.3f}' for x in expected)}): is this another data set?"
    )
  return notes
