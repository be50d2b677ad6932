"""The registry of the operations of `vit_jax.data.transforms`, and checks of their arguments.

To add one: a function that takes typed arguments and returns the operation, below `@register`, in a
module that `transforms` imports.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from vit_jax.data import images
from vit_jax.errors import unknown

# (uint8 or float32 [H, W, C] or [n, H, W, C], float64 [draws] or [n, draws]) -> images; one that is
# `cropping` may be given a `Stored` image.
Op = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Entry:
  """How an operation is made and called.

  Attributes:
    make: arguments -> operation.
    draws: random numbers for an image, the most that any arguments need.
    batched: whether the operation takes [n, H, W, C] and [n, draws].
    cropping: whether it takes images that are not decoded, and decodes what it needs of them.
  """

  make: Callable[..., Op]
  draws: int
  batched: bool
  cropping: bool


REGISTRY: dict[str, Entry] = {}


def register(
  *, draws: int = 0, batched: bool = False, cropping: bool = False
) -> Callable[[Callable[..., Op]], Callable[..., Op]]:
  """Makes a function available in the text under its own name."""

  def decorate(make: Callable[..., Op]) -> Callable[..., Op]:
    REGISTRY[make.__name__] = Entry(make, draws, batched, cropping)
    return make

  return decorate


def find(name: str) -> Entry:
  """Returns the operation of a name.

  Raises:
    UserError: there is none; the nearest name is given.
  """
  if name not in REGISTRY:
    raise unknown("transform", name, REGISTRY)
  return REGISTRY[name]


def check_size(size: int) -> None:
  """Refuses a side of an image that has no pixel."""
  if size < 1:
    raise ValueError(f"size={size} must be at least 1 pixel")


def check_interpolation(name: str) -> None:
  """Refuses what OpenCV has no interpolation for."""
  if name not in images.INTERPOLATIONS:
    raise ValueError(f"interpolation={name!r} must be one of {', '.join(images.INTERPOLATIONS)}")


_RANDOM = ("bilinear", "bicubic")


def choose_interpolation(name: str) -> Callable[[float], str]:
  """Returns uniform number -> interpolation; "random" is bilinear or bicubic, equally often."""
  if name == "random":
    return lambda u: _RANDOM[int(u >= 0.5)]
  check_interpolation(name)
  return lambda u: name


def check_probability(value: float) -> None:
  """Refuses what is no probability."""
  if not 0 <= value <= 1:
    raise ValueError(f"probability={value} must lie in 0..1")


def check_fill(fill: object) -> tuple[float, ...]:
  """Returns the grey, or the value of each channel, that is put where an image has no pixels."""
  values = fill if isinstance(fill, tuple) else (fill,)
  if not values or not all(type(v) in (int, float) and 0 <= v <= 255 for v in values):
    raise ValueError(f"fill={fill!r} must be a number from 0 to 255, or one for each channel")
  return tuple(float(v) for v in values)


def check_bytes(image: np.ndarray) -> None:
  """Refuses images that are no longer pixels from 0 to 255."""
  if image.dtype != np.uint8:
    raise ValueError("it takes pixels from 0 to 255: put it before value_range and normalize")
