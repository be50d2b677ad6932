"""Which measurements are compute-optimal."""

from __future__ import annotations

import numpy as np

from scaling.errors import DataError
from scaling.lawform import Array

BINS = 4  # bins per factor of ten


def envelope(x: Array, y: Array) -> Array:
  """Returns indices of the points that nothing cheaper matches, in order of x.

  The lower-left envelope (Pareto frontier): a point stays if every point with a smaller or
  equal x has a larger y.

  Args:
    x: cost, [n].
    y: error, [n].
  """
  order = np.lexsort((y, x))
  best = np.minimum.accumulate(y[order])
  first = np.concatenate([[True], y[order][1:] < best[:-1]])
  return order[first]


def envelopes(x: Array, y: Array, present: Array) -> Array:
  """Tells for many subsets which of their points are on the subset's envelope.

  Args:
    x: cost, [n].
    y: error, [n].
    present: which points each subset holds, bool [r, n].

  Returns:
    bool [r, n].
  """
  order = np.lexsort((y, x))
  values = np.where(present[:, order], y[order], np.inf)
  before = np.minimum.accumulate(values, axis=1)[:, :-1]
  before = np.concatenate([np.full((len(values), 1), np.inf), before], axis=1)
  on = np.zeros(present.shape, bool)
  on[:, order] = values < before
  return on


def hull(x: Array, y: Array) -> Array:
  """Returns indices of the corners of the lower convex hull in log x and log y.

  Stricter than the envelope: a point also has to lie below the line between its neighbours, so
  that a run that was a little lucky between two better ones does not count. Only the falling
  part is kept.

  Args:
    x: cost, [n].
    y: error, [n], positive.
  """
  if (y <= 0).any():
    raise DataError("the hull needs y > 0: choose another frontier (--frontier envelope)")
  kept: list[int] = []
  log_x, log_y = np.log(x), np.log(y)
  for i in envelope(x, y):
    while len(kept) > 1:
      a, b = kept[-2], kept[-1]
      turn = (log_x[b] - log_x[a]) * (log_y[i] - log_y[a])
      turn -= (log_y[b] - log_y[a]) * (log_x[i] - log_x[a])
      if turn > 0:
        break
      kept.pop()
    kept.append(int(i))
  return np.array(kept)


def binned(x: Array, y: Array) -> Array:
  """Returns the point of least error in each of equally wide bins of log x, in order of x.

  Unlike on the envelope, a lucky run cannot hide the honest ones after it.
  """
  span = np.log10(x.max() / x.min())
  edges = np.linspace(np.log10(x.min()), np.log10(x.max()), max(2, round(BINS * span) + 1))
  bin_of = np.clip(np.searchsorted(edges, np.log10(x), side="right"), 1, len(edges) - 1)
  kept = [np.flatnonzero(bin_of == b)[np.argmin(y[bin_of == b])] for b in np.unique(bin_of)]
  return np.array(kept)


def everything(x: Array, y: Array) -> Array:
  """Returns all indices, in order of x (and of y where x is the same)."""
  return np.lexsort((y, x))


VARIANTS = {"envelope": envelope, "hull": hull, "binned": binned, "all": everything}


def select(x: Array, y: Array, variant: str) -> Array:
  """Returns the indices of the points to fit, by a name of `VARIANTS`."""
  if variant not in VARIANTS:
    raise DataError(f"unknown frontier {variant!r} (known: {', '.join(VARIANTS)})")
  return VARIANTS[variant](x, y)


def members(x: Array, y: Array, present: Array, variant: str) -> Array:
  """Returns for many subsets (bool [r, n]) the points to fit; see `select`."""
  if variant == "all":
    return present
  if variant == "envelope":
    return envelopes(x, y, present)
  on = np.zeros(present.shape, bool)
  for row, mask in zip(on, present, strict=True):
    index = np.flatnonzero(mask)
    row[index[select(x[index], y[index], variant)]] = True
  return on


def interior(kept: Array, group: Array, least: int) -> Array:
  """Returns the part of a frontier that was won against a model on either side.

  Where only the smallest or only the largest model is on the frontier, a model beyond the grid
  would have been better: those points lie above nature's frontier and bend the law. The part
  that remains starts at the last point of the smallest model and ends at the first of the
  largest.

  Args:
    kept: indices of the frontier's points, in order of x.
    group: the model of every measurement, [n].
    least: points to keep at least; edge points come back one by one, both ends in turn.
  """
  models = group[kept]
  if len(np.unique(models)) < 3:
    return kept
  first = int(np.flatnonzero(models != models[0])[0]) - 1
  last = int(np.flatnonzero(models != models[-1])[-1]) + 1
  while last - first + 1 < min(least, len(kept)):
    if first > 0 and (first >= len(kept) - 1 - last or last == len(kept) - 1):
      first -= 1
    else:
      last += 1
  return kept[first : last + 1]
