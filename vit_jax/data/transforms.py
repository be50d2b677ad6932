"""Preprocessing of images on the host, composed by a text: "random_crop(32, pad=4)|flip|normalize".

An operation is made once from its arguments and then called with images and with uniform random
numbers: a fixed count for each image, hashed from (seed, position in the run, place in the text).
So what an image goes through is independent of the batch, thread or process that it is in.
`batched` operations are written once for [n, H, W, C] and serve single images as n = 1.

To add one: a function that takes typed arguments and returns the operation, below `@register`.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from vit_jax.data import calls, images
from vit_jax.data.uniforms import uniforms
from vit_jax.errors import UserError, unknown

# (uint8 or float32 [H, W, C] or [n, H, W, C], float64 [draws] or [n, draws]) -> images
Op = Callable[[np.ndarray, np.ndarray], np.ndarray]
Images = np.ndarray | list[np.ndarray]


@dataclasses.dataclass(frozen=True)
class _Entry:
  make: Callable[..., Op]
  draws: int  # random numbers for an image
  batched: bool


_REGISTRY: dict[str, _Entry] = {}


def register(
  *, draws: int = 0, batched: bool = False
) -> Callable[[Callable[..., Op]], Callable[..., Op]]:
  """Makes a function available in the text under its own name."""

  def decorate(make: Callable[..., Op]) -> Callable[..., Op]:
    _REGISTRY[make.__name__] = _Entry(make, draws, batched)
    return make

  return decorate


def usages() -> dict[str, str]:
  """Returns name -> "name(arguments): what it does" of every operation."""
  return {
    name: f"{calls.usage(name, e.make)}: {(e.make.__doc__ or '').splitlines()[0]}"
    for name, e in sorted(_REGISTRY.items())
  }


class Transform:
  """A parsed text; call it to preprocess images."""

  def __init__(self, text: str) -> None:
    """Parses the text.

    Raises:
      UserError: an operation or argument is unknown or wrong; the nearest name is given.
    """
    self.text = text
    self._ops: list[tuple[str, Op, _Entry]] = []
    for call in calls.parse(text, "transforms"):
      name = call[0]
      if name not in _REGISTRY:
        raise unknown("transform", name, _REGISTRY)
      entry = _REGISTRY[name]
      self._ops.append((name, calls.apply(entry.make, call, "transform"), entry))

  def __call__(self, batch: Images, seed: int, positions: np.ndarray) -> np.ndarray:
    """Preprocesses images.

    Args:
      batch: uint8 [n, H, W, C], or n images of their own sizes.
      seed: of the run.
      positions: integers [n], the place of each image in the run, which keys its randomness.

    Returns:
      uint8 or float32 [n, H, W, C].

    Raises:
      UserError: an operation cannot take these images, or their sizes differ at the end.
    """
    for stream, (name, op, entry) in enumerate(self._ops):
      u = uniforms(seed, stream, positions, entry.draws)
      try:
        if entry.batched:
          batch = _stack(batch)
          if isinstance(batch, np.ndarray):
            batch = op(batch, u)
          else:
            batch = [op(image[None], v[None])[0] for image, v in zip(batch, u, strict=True)]
        else:
          batch = [op(image, v) for image, v in zip(batch, u, strict=True)]
      except ValueError as e:
        raise UserError(f"transform {name} in {self.text!r}: {e}") from None
    batch = _stack(batch)
    if not isinstance(batch, np.ndarray):
      shapes = sorted({image.shape for image in batch})
      raise UserError(
        f"images of different sizes, such as {shapes[0]} and {shapes[-1]}, cannot "
        f"form a batch: end transforms {self.text!r} with a crop or a resize"
      )
    return batch


def _stack(batch: Images) -> Images:
  """Makes one array of images of one shape."""
  if isinstance(batch, list) and len({image.shape for image in batch}) == 1:
    return np.stack(batch)
  return batch


def _check_interpolation(name: str) -> None:
  if name not in images.INTERPOLATIONS:
    raise ValueError(f"interpolation={name!r} must be one of {', '.join(images.INTERPOLATIONS)}")


def _check_size(size: int) -> None:
  if size < 1:
    raise ValueError(f"size={size} must be at least 1 pixel")


@register()
def resize(size: int, interpolation: str = "bilinear", antialias: bool = False) -> Op:
  """Resizes to size x size pixels; the aspect ratio changes."""
  _check_size(size)
  _check_interpolation(interpolation)
  return lambda image, _: images.resize(image, size, size, interpolation, antialias)


@register()
def resize_small(size: int, interpolation: str = "area", antialias: bool = False) -> Op:
  """Resizes so that the shorter side has size pixels; the aspect ratio stays."""
  _check_size(size)
  _check_interpolation(interpolation)

  def op(image: np.ndarray, _: np.ndarray) -> np.ndarray:
    h, w = image.shape[:2]
    scale = size / min(h, w)
    return images.resize(image, round(h * scale), round(w * scale), interpolation, antialias)

  return op


@register(batched=True)
def central_crop(size: int) -> Op:
  """Cuts size x size pixels out of the middle."""
  _check_size(size)

  def op(batch: np.ndarray, _: np.ndarray) -> np.ndarray:
    h, w = batch.shape[1:3]
    if min(h, w) < size:
      raise ValueError(f"an image of {h} x {w} pixels is smaller than size={size}: resize first")
    y, x = (h - size) // 2, (w - size) // 2
    return batch[:, y : y + size, x : x + size]

  return op


_ATTEMPTS = 10


@register(draws=2 * _ATTEMPTS + 2)
def inception_crop(
  size: int,
  min_area: float = 0.05,
  max_area: float = 1.0,
  min_aspect: float = 0.75,
  max_aspect: float = 4 / 3,
  interpolation: str = "bilinear",
  antialias: bool = False,
) -> Op:
  """Cuts a random area of random aspect ratio and resizes it to size x size pixels.

  Szegedy et al. 2015 (arXiv:1409.4842), section 6, as TensorFlow's
  `sample_distorted_bounding_box` does it: the aspect ratio (width / height) is uniform, the height
  is uniform over the integers that keep the area in bounds and the box in the image, the place is
  uniform. An aspect ratio that leaves no height is drawn again, up to 10 times; after that the
  whole image is taken. The defaults are those of the ViT papers: no antialiasing.
  """
  _check_size(size)
  _check_interpolation(interpolation)
  if not (0 < min_area <= max_area <= 1 and 0 < min_aspect <= max_aspect):
    raise ValueError("needs 0 < min_area <= max_area <= 1 and 0 < min_aspect <= max_aspect")

  def op(image: np.ndarray, u: np.ndarray) -> np.ndarray:
    h, w = image.shape[:2]
    y, x, box_h, box_w = crop_box(h, w, u, (min_area, max_area), (min_aspect, max_aspect))
    cut = image[y : y + box_h, x : x + box_w]
    return images.resize(cut, size, size, interpolation, antialias)

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
  _check_size(size)
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
    mirrored = u[:, 0] < 0.5
    out = batch.copy()
    out[mirrored] = batch[mirrored, :, ::-1]
    return out

  return op


def _affine(batch: np.ndarray, scale: np.ndarray, offset: np.ndarray) -> np.ndarray:
  """Returns float32 batch * scale + offset, where scale and offset are [C] or []."""
  if batch.dtype != np.uint8:
    raise ValueError("it takes pixels from 0 to 255: use only one of value_range and normalize")
  n, h, w, channels = batch.shape
  if scale.size not in (1, channels):
    raise ValueError(f"{scale.size} means and deviations do not fit {channels} channels")
  # Rows of W * C are several times faster to broadcast over than pixels of C.
  row_scale = np.resize(scale.astype(np.float32), w * channels)
  row_offset = np.resize(offset.astype(np.float32), w * channels)
  out = batch.reshape(n * h, w * channels) * row_scale
  out += row_offset
  return out.reshape(batch.shape)


@register(batched=True)
def value_range(low: float = -1.0, high: float = 1.0) -> Op:
  """Maps pixels from 0..255 to low..high, as float32."""
  return lambda batch, _: _affine(batch, np.array([(high - low) / 255]), np.array([low]))


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
  return lambda batch, _: _affine(batch, 1 / (255 * s), -m / s)
