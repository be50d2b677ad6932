"""Bootstrap over runs: what other draws of the same training runs would have given.

Points of one run (a trunk and its branches) share their luck, so whole runs are drawn with
replacement (cluster bootstrap, Davison & Hinkley 1997, section 3.8), and every draw takes its own
frontier. All draws are fitted as one batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from scaling.estimate import Problem
from scaling.lawform import Array

FEW_RUNS = 8  # with fewer clusters percentiles are known to be too narrow
# Resamples fail that have drawn few points, those that would have scattered most. As many as one
# tail of a 95% interval holds may: even if all belonged there, 92.5% would be left.
_FAILURES = 0.025


@dataclasses.dataclass(frozen=True)
class Draws:
  """Parameters of the resamples.

  Attributes:
    parameters: natural units, [r, p].
    runs: number of clusters that were drawn from.
    failed: resamples with fewer distinct frontier points than parameters, not in `parameters`.
  """

  parameters: Array
  runs: int
  failed: int

  def interval(self, index: int, level: float = 0.95) -> tuple[float, float]:
    """Returns the percentile interval of parameter number `index`."""
    tail = (1 - level) / 2
    low, high = np.quantile(self.parameters[:, index], [tail, 1 - tail])
    return float(low), float(high)

  def shortage(self) -> str | None:
    """Says why the draws give no honest intervals and what to do; None: they do."""
    total = len(self.parameters) + self.failed
    if total == 0:
      return "no resamples were asked for"
    if self.runs < FEW_RUNS:
      return (
        f"only {self.runs} runs to draw from, percentiles would be too narrow: measure "
        f"{FEW_RUNS} or more"
      )
    if self.failed > _FAILURES * total:
      return (
        f"{self.failed} of {total} resamples have fewer distinct points than the law has "
        f"parameters ({self.parameters.shape[1]}): measure more points"
      )
    return None


def counts(run: Array, resamples: int, seed: int = 0) -> Array:
  """Draws runs with replacement and returns how often each point occurs, [resamples, n]."""
  _, member = np.unique(run, return_inverse=True)
  runs = int(member.max()) + 1
  generator = np.random.default_rng(seed)
  return generator.multinomial(runs, np.full(runs, 1 / runs), size=resamples)[:, member]


def draw(
  problem: Problem,
  run: Array,
  on_frontier: Callable[[Array], Array] | None = None,
  resamples: int = 1000,
  seed: int = 0,
) -> Draws:
  """Refits the law to resamples of the runs.

  Args:
    problem: all points that a resample may use, not only the frontier's.
    run: the run of each point, [n].
    on_frontier: maps presence bool [r, n] to membership of the frontier bool [r, n]; None:
      every point that is present takes part.
    resamples: number of draws.
    seed: of the draws.
  """
  drawn = counts(run, resamples, seed)
  present = drawn > 0
  used = present if on_frontier is None else on_frontier(present)
  weights = np.where(used, drawn, 0) * problem.weights
  enough = _distinct(problem.x, used) >= len(problem.law.parameters)
  parameters = np.empty((0, len(problem.law.parameters)))
  touched = used.any(axis=0)
  if enough.any():
    # Points that no resample uses cost time and say nothing.
    small = dataclasses.replace(
      problem, x=problem.x[touched], y=problem.y[touched], weights=problem.weights[touched]
    )
    parameters, _ = small.solve(weights[enough][:, touched])
  return Draws(problem.natural(parameters), len(np.unique(run)), int((~enough).sum()))


def _distinct(x: Array, used: Array) -> Array:
  """Returns how many different x [n] or [n, 2] each resample holds, by its `used` [r, n]: [r]."""
  _, place = np.unique(x, axis=0, return_inverse=True)
  order = np.argsort(place, kind="stable")
  starts = np.flatnonzero(np.diff(place[order], prepend=-1))
  return np.logical_or.reduceat(used[:, order], starts, axis=1).sum(axis=1)
