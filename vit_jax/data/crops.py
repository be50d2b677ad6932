"""Operations that choose which part of an image is seen, and at what size."""

import math

import cv2
import numpy as np

from vit_jax.data import images
from vit_jax.data.operations import (
  Op,
  check_interpolation,
  check_size,
  choose_interpolation,
  register,
)
from vit_jax.data.stored import Stored, cut


@register()
def resize(size: int, interpolation: str = "bilinear", antialias: bool = False) -> Op:
  """Resizes to size x size pixels; the aspect ratio changes."""
  check_size(size)
  check_interpolation(interpolation)
  return lambda image, _: images.resize(image, size, size, interpolation, antialias)


@register()
def resize_small(size: int, interpolation: str = "area", antialias: bool = False) -> Op:
  """Resizes so that the shorter side has size pixels; the aspect ratio stays."""
  check_size(size)
  check_interpolation(interpolation)

  def op(image: np.ndarray, _: np.ndarray) -> np.ndarray:
    h, w = image.shape[:2]
    scale = size / min(h, w)
    return images.resize(image, round(h * scale), round(w * scale), interpolation, antialias)

  return op


@register(batched=True)
def central_crop(size: int) -> Op:
  """Cuts size x size pixels out of the middle."""
  check_size(size)

  def op(batch: np.ndarray, _: np.ndarray) -> np.ndarray:
    h, w = batch.shape[1:3]
    if min(h, w) < size:
      raise ValueError(f"an image of {h} x {w} pixels is smaller than size={size}: resize first")
    y, x = (h - size) // 2, (w - size) // 2
    return batch[:, y : y + size, x : x + size]

  return op


@register()
def trim(pixels: int) -> Op:
  """Cuts a frame of so many pixels off, as ObjectNet's images need (theirs is red, 1 pixel)."""
  check_size(pixels)

  def op(image: np.ndarray, _: np.ndarray) -> np.ndarray:
    if min(image.shape[:2]) <= 2 * pixels:
      raise ValueError(f"trim({pixels}) leaves nothing of an image of {image.shape[:2]} pixels")
    return image[pixels:-pixels, pixels:-pixels]

  return op


_ATTEMPTS = 10


@register(draws=2 * _ATTEMPTS + 2, cropping=True)
def inception_crop(
  size: int,
  min_area: float = 0.05,
  max_area: float = 1.0,
  min_aspect: float = 0.75,
  max_aspect: float = 4 / 3,
  interpolation: str = "bilinear",
  antialias: bool = False,
  scaled: bool = False,
) -> Op:
  """Cuts a random area of random aspect ratio and resizes it to size x size pixels.

  Szegedy et al. 2015 (arXiv:1409.4842), section 6, as TensorFlow's
  `sample_distorted_bounding_box` does it: the aspect ratio (width / height) is uniform, the height
  is uniform over the integers that keep the area in bounds and the box in the image, the place is
  uniform. An aspect ratio that leaves no height is drawn again, up to 10 times; after that the
  whole image is taken. The defaults are those of the ViT papers: no antialiasing.

  Args:
    size: of the result, in pixels.
    min_area: smallest box as a share of the image.
    max_area: largest.
    min_aspect: least width / height.
    max_aspect: largest.
    interpolation: as for resize.
    antialias: average over all source pixels where the box is larger than the result.
    scaled: decode a JPEG file at 1/2, 1/4 or 1/8 of its size where the box is at least that many
      times larger than the result, which is faster and changes pixels: the decoder averages over
      2, 4 or 8 pixels a side, and the box's edges are rounded to them. The box itself is the same.
      Images must not be kept decoded in memory.
  """
  check_size(size)
  check_interpolation(interpolation)
  if not (0 < min_area <= max_area <= 1 and 0 < min_aspect <= max_aspect):
    raise ValueError("needs 0 < min_area <= max_area <= 1 and 0 < min_aspect <= max_aspect")

  def op(image: np.ndarray | Stored, u: np.ndarray) -> np.ndarray:
    h, w = image.shape[:2]
    box = crop_box(h, w, u, (min_area, max_area), (min_aspect, max_aspect))
    part = cut(image, *box, least=size if scaled else None)
    return images.resize(part, size, size, interpolation, antialias)

  return op


def crop_box(
  h: int, w: int, u: np.ndarray, area: tuple[float, float], aspect: tuple[float, float]
) -> tuple[int, int, int, int]:
  """Returns (y, x, height, width) of a random box in an h x w image; see `inception_crop`."""
  for k in range(_ATTEMPTS):
    ratio = aspect[0] + u[2 * k] * (aspect[1] - aspect[0])
    # Widths are rounded, so heights near the bounds are tried and checked.
    low = max(math.floor(math.sqrt(area[0] * h * w / ratio)) - 1, 1)
    high = min(math.ceil(math.sqrt(area[1] * h * w / ratio)) + 1, h)

    def fits(height: int, ratio: float = ratio) -> bool:
      width = round(height * ratio)
      return 1 <= width <= w and area[0] * h * w <= height * width <= area[1] * h * w

    while low <= high and not fits(low):
      low += 1
    while high >= low and not fits(high):
      high -= 1
    if low <= high:
      box_h = low + int(u[2 * k + 1] * (high - low + 1))
      box_w = round(box_h * ratio)
      y, x = int(u[-2] * (h - box_h + 1)), int(u[-1] * (w - box_w + 1))
      return y, x, box_h, box_w
  return 0, 0, h, w


@register(draws=2, batched=True)
def random_crop(size: int, pad: int = 0, mode: str = "zero") -> Op:
  """Pads every side by pad pixels ("zero" or "reflect") and cuts size x size pixels anywhere."""
  check_size(size)
  if pad < 0:
    raise ValueError(f"pad={pad} must be at least 0")
  if mode not in ("zero", "reflect"):
    raise ValueError(f"mode={mode!r} must be 'zero' or 'reflect'")

  def op(batch: np.ndarray, u: np.ndarray) -> np.ndarray:
    n, h, w, channels = batch.shape
    if min(h, w) + 2 * pad < size:
      raise ValueError(f"an image of {h} x {w} pixels and pad={pad} are smaller than size={size}")
    if pad:
      padded = np.zeros((n, h + 2 * pad, w + 2 * pad, channels), batch.dtype)
      padded[:, pad : pad + h, pad : pad + w] = batch
      if mode == "reflect":
        padded = np.pad(batch, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="reflect")
      batch = padded
    ys = (u[:, 0] * (batch.shape[1] - size + 1)).astype(int).tolist()
    xs = (u[:, 1] * (batch.shape[2] - size + 1)).astype(int).tolist()
    out = np.empty((n, size, size, channels), batch.dtype)
    for i, (y, x) in enumerate(zip(ys, xs, strict=True)):
      out[i] = batch[i, y : y + size, x : x + size]
    return out

  return op


@register(draws=1, batched=True)
def flip() -> Op:
  """Mirrors left and right with probability 1/2."""

  def op(batch: np.ndarray, u: np.ndarray) -> np.ndarray:
    out = batch.copy()
    for i in np.flatnonzero(u[:, 0] < 0.5).tolist():
      cv2.flip(batch[i], 1, dst=out[i])
    return out

  return op


@register(draws=2 * _ATTEMPTS + 3, cropping=True)
def random_resized_crop(
  size: int,
  min_area: float = 0.08,
  max_area: float = 1.0,
  min_aspect: float = 0.75,
  max_aspect: float = 4 / 3,
  interpolation: str = "bicubic",
  antialias: bool = True,
) -> Op:
  """Cuts a random area of random aspect ratio and resizes it, as torchvision and timm do.

  Like `inception_crop`, but the area is uniform and the aspect ratio (width / height) log-uniform.
  A box that does not fit is drawn again, up to 10 times; after that the middle is taken, as much of
  it as the aspect ratio allows.

  Args:
    size: of the result, in pixels.
    min_area: smallest box as a share of the image.
    max_area: largest.
    min_aspect: least width / height.
    max_aspect: largest.
    interpolation: as for resize, or "random": bilinear or bicubic, equally often.
    antialias: average over all source pixels where the box is larger than the result.
  """
  check_size(size)
  kind = choose_interpolation(interpolation)
  if not (0 < min_area <= max_area <= 1 and 0 < min_aspect <= max_aspect):
    raise ValueError("needs 0 < min_area <= max_area <= 1 and 0 < min_aspect <= max_aspect")

  def op(image: np.ndarray | Stored, u: np.ndarray) -> np.ndarray:
    h, w = image.shape[:2]
    box = resized_box(h, w, u, (min_area, max_area), (min_aspect, max_aspect))
    return images.resize(cut(image, *box), size, size, kind(u[-1]), antialias)

  return op


def resized_box(
  h: int, w: int, u: np.ndarray, area: tuple[float, float], aspect: tuple[float, float]
) -> tuple[int, int, int, int]:
  """Returns (y, x, height, width) of a random box in an h x w image; see `random_resized_crop`."""
  low, high = math.log(aspect[0]), math.log(aspect[1])
  for k in range(_ATTEMPTS):
    size = h * w * (area[0] + u[2 * k] * (area[1] - area[0]))
    ratio = math.exp(low + u[2 * k + 1] * (high - low))
    box_w, box_h = round(math.sqrt(size * ratio)), round(math.sqrt(size / ratio))
    if 0 < box_w <= w and 0 < box_h <= h:
      return int(u[-3] * (h - box_h + 1)), int(u[-2] * (w - box_w + 1)), box_h, box_w
  box_h, box_w = min(h, round(w / aspect[0])), min(w, round(h * aspect[1]))
  return (h - box_h) // 2, (w - box_w) // 2, box_h, box_w
