"""Operations that draw the colours of an image anew."""

import itertools

import numpy as np

from vit_jax.data import tones
from vit_jax.data.operations import Op, check_bytes, check_probability, register

_ORDERS = tuple(itertools.permutations(range(4)))


@register(draws=6)
def color_jitter(
  brightness: float = 0.0,
  contrast: float = 0.0,
  saturation: float = 0.0,
  hue: float = 0.0,
  probability: float = 1.0,
) -> Op:
  """Changes brightness, contrast, saturation and hue by random factors, in random order.

  As torchvision's ColorJitter: a factor is uniform over [max(0, 1 - x), 1 + x], the hue is turned
  by a uniform share of the circle in [-hue, hue], and each change sees the rounded result of the
  one before. timm's `color_jitter=0.4` is color_jitter(0.4, 0.4, 0.4); it is not used along with
  RandAugment there.

  Args:
    brightness: x of the factor of all pixels; 0: as it is.
    contrast: x of the factor of the distance from the image's mean luma.
    saturation: x of the factor of the distance from each pixel's luma.
    hue: at most 0.5, half a turn.
    probability: that the image is changed at all.
  """
  strengths = (brightness, contrast, saturation)
  if min(strengths) < 0 or not 0 <= hue <= 0.5:
    raise ValueError("brightness, contrast and saturation must be at least 0, hue in 0..0.5")
  check_probability(probability)
  changes = (tones.brightness, tones.contrast, tones.saturation, tones.hue)
  ranges = [(max(0.0, 1 - x), 1 + x) for x in strengths] + [(-hue, hue)]

  def op(image: np.ndarray, u: np.ndarray) -> np.ndarray:
    check_bytes(image)
    *amounts, order, applied = u.tolist()
    if applied < probability:
      for k in _ORDERS[int(order * len(_ORDERS))]:
        low, high = ranges[k]
        if low < high:
          image = changes[k](image, low + amounts[k] * (high - low))
    return image

  return op


@register(draws=1)
def grayscale(probability: float = 0.1) -> Op:
  """Takes the colour out of an image with a probability; it keeps its channels."""
  check_probability(probability)

  def op(image: np.ndarray, u: np.ndarray) -> np.ndarray:
    check_bytes(image)
    return tones.saturation(image, 0.0) if u[0] < probability else image

  return op
