"""The best shapes for a compute, of those that fit: the shape law of arXiv 2305.13035."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from scaling import laws, measurements, surfaces
from scaling.errors import DataError
from scaling.planner.outcome import Outcome
from scaling.points import select

DIMENSIONS = ("depth", "width", "mlp_dim")

# x* = x0 (t / t0)^s. The exponents are those of the paper's table (ImageNet 10-shot); the shape is
# its SoViT-400m/14, for the compute of its training: 40e9 images of 221 GFLOPs forward, three
# times that in training.
_PUBLISHED = {"depth": (27, 0.45), "width": (1152, 0.22), "mlp_dim": (4304, 0.6)}
_PUBLISHED_AT = 3 * 40e9 * 221e9


@dataclasses.dataclass(frozen=True)
class Best:
  """A shape and what a compute would make of it.

  Attributes:
    outcome: the cell.
    distance: from the law's shape: root mean square of the three log ratios.
    images: that the compute is enough for.
    device_days: that they take; None: the time of a step is not known.
  """

  outcome: Outcome
  distance: float
  images: float
  device_days: float | None


def published(flops: float) -> dict[str, float]:
  """Returns the best depth, width and MLP width for so many training FLOPs, by the paper."""
  return {
    name: value * (flops / _PUBLISHED_AT) ** power for name, (value, power) in _PUBLISHED.items()
  }


def measured(paths: Sequence[str], flops: float) -> dict[str, float]:
  """Returns the same by shape laws fitted to runs of one's own.

  Args:
    paths: measurements with the columns train_flops, test_error, depth, width and mlp_dim.
    flops: of training.

  Raises:
    DataError: there are none for some dimension, or too few; or a law has no best value.
  """
  table = measurements.read(list(paths))
  points = select(table)
  best = {}
  for name in DIMENSIONS:
    sizes = np.array([measurements.number(row.get(name)) or np.nan for row in points.rows])
    good = np.isfinite(sizes)
    if len(np.unique(sizes[good])) < 3 or good.sum() < len(laws.SHAPE.parameters):
      raise DataError(
        f"{', '.join(paths)}: the shape law needs {len(laws.SHAPE.parameters)} points over 3 "
        f"values of '{name}' (--runs)"
      )
    x = np.stack([sizes, points.x], axis=-1)[good]
    fitted = surfaces.surface(laws.SHAPE, x, points.y[good], resamples=0)
    best[name] = float(surfaces.best_shape(np.array(list(fitted.parameters.values())), flops))
    if not math.isfinite(best[name]):
      raise DataError(f"{', '.join(paths)}: by these runs, '{name}' cannot be too large (--runs)")
  return best


def nearest(
  outcomes: Sequence[Outcome], wanted: dict[str, float], flops: float, count: int = 8
) -> list[Best]:
  """Returns the shapes that fit and are nearest to the law's, each in its fastest setting.

  Args:
    outcomes: of any shapes and settings.
    wanted: see `published`.
    flops: of training.
    count: how many.
  """
  fastest: dict[object, Outcome] = {}
  for known in outcomes:
    other = fastest.get(known.cell.shape)
    if known.fits and (other is None or _pace(known) < _pace(other)):
      fastest[known.cell.shape] = known
  rows = [_best(known, wanted, flops) for known in fastest.values()]
  return sorted(rows, key=lambda b: (b.distance, _pace(b.outcome)))[:count]


def _pace(known: Outcome) -> float:
  """Returns device seconds per image; large where they are not known."""
  return 1 / known.images_per_second if known.seconds else math.inf


def _best(known: Outcome, wanted: dict[str, float], flops: float) -> Best:
  off = [math.log(getattr(known.cell.shape, name) / wanted[name]) for name in DIMENSIONS]
  images = flops / known.train_flops
  days = images * _pace(known) / 86400 if known.seconds else None
  return Best(known, math.sqrt(sum(x * x for x in off) / len(off)), images, days)
