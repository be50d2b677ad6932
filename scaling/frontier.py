"""Which measurements are compute-optimal."""

from __future__ import annotations

import numpy as np

from scaling.lawform import Array


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


def select(x: Array, y: Array, variant: str) -> Array:
    """Returns the indices of the points to fit: "envelope", or "all" in order of x."""
    return envelope(x, y) if variant == "envelope" else np.argsort(x, kind="stable")


def members(x: Array, y: Array, present: Array, variant: str) -> Array:
    """Returns for many subsets (bool [r, n]) the points to fit; see `select`."""
    return envelopes(x, y, present) if variant == "envelope" else present


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
