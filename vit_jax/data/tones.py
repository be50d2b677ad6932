"""Functions from one uint8 image to another that change its colours and leave its pixels in place.

Their definitions are those of Pillow's ImageEnhance and ImageOps, in which the published policies
are written. Sums are saturated, never wrapped. Pillow cuts off fractions where this rounds to the
nearest, so the two may differ by 1. Images are [H, W, 3] or, grey, [H, W, 1].
"""

import cv2
import numpy as np

_LEVELS = np.arange(256)


def _blend(image: np.ndarray, other: np.ndarray, factor: float) -> np.ndarray:
  """Returns other + factor * (image - other), saturated."""
  out = cv2.addWeighted(image, factor, other, 1 - factor, 0.0)
  return out.reshape(image.shape)  # OpenCV drops a single channel


def _shift(image: np.ndarray, factor: float, offset: float) -> np.ndarray:
  return cv2.addWeighted(image, factor, image, 0.0, offset).reshape(image.shape)


def _look_up(image: np.ndarray, table: np.ndarray) -> np.ndarray:
  """Replaces levels by a table, [256] or, for each channel its own, [256, C]."""
  table = np.clip(table, 0, 255).astype(np.uint8)
  if table.ndim == 2:
    table = table[None]
  return cv2.LUT(image, table).reshape(image.shape)


def grey(image: np.ndarray) -> np.ndarray:
  """Returns the luma of ITU-R BT.601, [H, W]."""
  return image[..., 0] if image.shape[-1] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
  """Multiplies by factor: 0 is black, 1 the image."""
  return _shift(image, factor, 0.0)


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
  """Moves away from the mean luma: 0 is uniformly grey, 1 the image."""
  return _shift(image, factor, (1 - factor) * round(cv2.mean(grey(image))[0]))


def saturation(image: np.ndarray, factor: float) -> np.ndarray:
  """Moves away from each pixel's luma: 0 is grey, 1 the image."""
  if image.shape[-1] == 1:
    return image
  return _blend(image, cv2.cvtColor(grey(image), cv2.COLOR_GRAY2RGB), factor)


def hue(image: np.ndarray, turn: float) -> np.ndarray:
  """Turns the hue of the HSV hexcone, red by 1/3 to green; grey stays."""
  if image.shape[-1] == 1:
    return image
  hsv = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
  hsv[..., 0] = (hsv[..., 0] + 360 * turn) % 360
  return np.rint(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255).astype(np.uint8)


_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
  """Moves away from the 3 x 3 weighted mean: 0 is smooth, 1 the image; the edges stay."""
  smooth = cv2.filter2D(image, -1, _SMOOTH).reshape(image.shape)
  smooth[[0, -1]] = image[[0, -1]]
  smooth[:, [0, -1]] = image[:, [0, -1]]
  return _blend(image, smooth, factor)


def invert(image: np.ndarray) -> np.ndarray:
  """Returns 255 minus the image."""
  return 255 - image


def solarize(image: np.ndarray, threshold: int) -> np.ndarray:
  """Inverts levels from the threshold on: 256 is the image, 0 its inverse."""
  return _look_up(image, np.where(threshold > _LEVELS, _LEVELS, 255 - _LEVELS))


def solarize_add(image: np.ndarray, amount: int) -> np.ndarray:
  """Adds an amount to levels below 128."""
  return _look_up(image, np.where(_LEVELS < 128, _LEVELS + amount, _LEVELS))


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
  """Keeps the highest bits of each level: 8 is the image, 0 black."""
  return image & np.uint8(256 - (1 << (8 - bits)) if bits else 0)


def autocontrast(image: np.ndarray) -> np.ndarray:
  """Stretches each channel from its own least to its largest level."""
  low, high = (
    pick(cv2.reduce(image, 0, kind).reshape(image.shape[1:]), axis=0).astype(float)
    for pick, kind in ((np.min, cv2.REDUCE_MIN), (np.max, cv2.REDUCE_MAX))
  )
  scale = 255 / np.maximum(high - low, 1)
  table = (_LEVELS[:, None] - low) * scale
  return _look_up(image, np.where(high > low, table, _LEVELS[:, None]))


def equalize(image: np.ndarray) -> np.ndarray:
  """Makes the levels of each channel equally frequent, as far as whole levels can."""
  channels = image.shape[-1]
  table = np.empty((256, channels), int)
  for c in range(channels):
    counts = cv2.calcHist([image], [c], None, [256], [0, 256]).ravel().astype(int)
    step = (counts.sum() - counts[counts.nonzero()[0][-1]]) // 255
    below = np.cumsum(counts) - counts
    table[:, c] = (below + step // 2) // step if step else _LEVELS
  return _look_up(image, table)
