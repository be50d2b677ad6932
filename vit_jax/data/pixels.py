"""Operations that map pixels from 0..255 to the numbers that a model takes."""

import numpy as np

from vit_jax.data.operations import Op, register


def _affine(batch: np.ndarray, scale: np.ndarray, offset: np.ndarray) -> np.ndarray:
  """Returns float32 batch * scale + offset, where scale and offset are both [C] or [1]."""
  check_map(batch, scale)
  if scale.size == 1:
    out = batch * np.float32(scale[0])
    out += np.float32(offset[0])
    return out
  n, h, w, channels = batch.shape
  # Rows of W * C are several times faster to broadcast over than pixels of C.
  row_scale = np.resize(scale.astype(np.float32), w * channels)
  row_offset = np.resize(offset.astype(np.float32), w * channels)
  out = batch.reshape(n * h, w * channels).astype(np.float32)
  out *= row_scale
  out += row_offset
  return out.reshape(batch.shape)


def check_map(batch: np.ndarray, scale: np.ndarray) -> None:
  """Refuses images that have been mapped before, and those of another number of channels."""
  if batch.dtype != np.uint8:
    raise ValueError("it takes pixels from 0 to 255: use only one of value_range and normalize")
  if scale.size not in (1, batch.shape[-1]):
    raise ValueError(f"{scale.size} means and deviations do not fit {batch.shape[-1]} channels")


@register(batched=True)
def value_range(low: float = -1.0, high: float = 1.0) -> Op:
  """Maps pixels from 0..255 to low..high, as float32."""
  scale, offset = range_map(low, high)
  return lambda batch, _: _affine(batch, scale, offset)


def range_map(low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
  """Returns scale and offset, float64 [1], of `value_range`."""
  return np.array([(high - low) / 255]), np.array([low])


_STATISTICS = {  # mean and standard deviation of the training images' channels, pixels in 0..1
  "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
  "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


@register(batched=True)
def normalize(
  preset: str = "imagenet",
  mean: tuple[float, ...] | float | None = None,
  std: tuple[float, ...] | float | None = None,
) -> Op:
  """Takes pixels as 0..1, subtracts the mean and divides by the deviation, as float32.

  `preset` is "imagenet" or "cifar10"; `mean` and `std` (a number, or one per channel) override it.
  """
  scale, offset = normal_map(preset, mean, std)
  return lambda batch, _: _affine(batch, scale, offset)


def normal_map(
  preset: str, mean: tuple[float, ...] | float | None, std: tuple[float, ...] | float | None
) -> tuple[np.ndarray, np.ndarray]:
  """Returns scale and offset, float64 [1] or [C], of `normalize`; ValueError as it says."""
  if preset not in _STATISTICS:
    raise ValueError(f"preset={preset!r} must be one of {', '.join(_STATISTICS)}")
  try:
    m, s = (
      np.atleast_1d(np.array(known if given is None else given, np.float64))
      for known, given in zip(_STATISTICS[preset], (mean, std), strict=True)
    )
  except (TypeError, ValueError):
    raise ValueError("mean and std must be numbers") from None
  if m.ndim != 1 or not (s > 0).all() or m.size != s.size:
    raise ValueError("mean and std need as many numbers each, and std above 0")
  return 1 / (255 * s), -m / s
