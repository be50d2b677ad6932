"""The operations of augmentation policies, each with one number for how far it changes an image.

A strength of 0 changes nothing and 1 is the strongest that the published policies use; posterize
starts at 4 bits, and autocontrast, equalize and invert have one strength only. For operations with
two directions the sign gives the direction. A stronger one never changes an image less: no level
wraps around, and what is past the end of a range stays there.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vit_jax.data import affine, tones


class Canvas(NamedTuple):
  """What moved images are drawn with: see `affine.warp`."""

  fill: tuple[float, ...]
  interpolation: str


# (uint8 [H, W, C], strength, canvas) -> uint8 [H, W, C]
Operation = Callable[[np.ndarray, float, Canvas], np.ndarray]


def factor(strength: float) -> float:
  """Returns 1 + 0.9 * strength, but at least 0.1: of colour, contrast, brightness, sharpness."""
  return max(0.1, 1 + 0.9 * strength)


def threshold(strength: float) -> int:
  """Returns the level from which solarize inverts, from 256 down to 0."""
  return max(0, 256 - int(256 * abs(strength)))


def move(matrix: Callable[[int, int, float], affine.Matrix]) -> Operation:
  """Returns the operation that moves pixels by matrix(height, width, strength)."""

  def op(image: np.ndarray, strength: float, canvas: Canvas) -> np.ndarray:
    h, w = image.shape[:2]
    return affine.warp(image, matrix(h, w, strength), *canvas)

  return op


OPERATIONS: dict[str, Operation] = {
  "autocontrast": lambda image, s, _: tones.autocontrast(image),
  "equalize": lambda image, s, _: tones.equalize(image),
  "invert": lambda image, s, _: tones.invert(image),
  "rotate": move(lambda h, w, s: affine.rotation(h, w, 30 * s)),
  "posterize": lambda image, s, _: tones.posterize(image, max(1, 4 - int(4 * abs(s)))),
  "solarize": lambda image, s, _: tones.solarize(image, threshold(s)),
  "solarize_add": lambda image, s, _: tones.solarize_add(image, min(128, int(110 * abs(s)))),
  "color": lambda image, s, _: tones.saturation(image, factor(s)),
  "contrast": lambda image, s, _: tones.contrast(image, factor(s)),
  "brightness": lambda image, s, _: tones.brightness(image, factor(s)),
  "sharpness": lambda image, s, _: tones.sharpness(image, factor(s)),
  "shear_x": move(lambda h, w, s: affine.shear_x(0.3 * s)),
  "shear_y": move(lambda h, w, s: affine.shear_y(0.3 * s)),
  "translate_x": move(lambda h, w, s: affine.translation(0.45 * w * s, 0)),
  "translate_y": move(lambda h, w, s: affine.translation(0, 0.45 * h * s)),
}
