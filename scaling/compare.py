"""Which form to believe: the one that predicts the largest scales when it has not seen them.

Each form is fitted several times without the points at the largest scales and asked for them.
The default prediction averages the forms by that evidence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr

from scaling import laws
from scaling.errors import DataError
from scaling.estimate import Problem
from scaling.lawform import Array, Law
from scaling.leastsquares import Loss
from scaling.solution import Solution

FORMS = ("power", "saturating", "double", "guessing", "broken1")
SHARES = (0.2, 0.3, 0.4)  # of the points left out, largest scales first
EVIDENCE = 4.0  # effective number of left-out points: errors of neighbours are alike
_OPEN = 3.0  # standard deviation of log E that stands for an end that the data leave open


@dataclasses.dataclass(frozen=True)
class Trial:
  """Predictions of left-out points.

  Attributes:
    x: their scales, [k].
    measured: their errors, [k].
    predicted: what the law fitted without them says, [k].
    left_out: how many points this trial left out.
  """

  x: Array
  measured: Array
  predicted: Array
  left_out: int


@dataclasses.dataclass(frozen=True)
class Candidate:
  """One form and its evidence.

  Attributes:
    solution: the form fitted to all points.
    trials: one per share of points left out.
    error: RMS log error over all trials.
    weight: share in the average; all candidates' weights sum to 1.
  """

  solution: Solution
  trials: list[Trial]
  error: float
  weight: float

  @property
  def law(self) -> Law:
    """The form."""
    return self.solution.problem.law


def trials(law: Law, x: Array, y: Array, loss: Loss, weights: Array | None = None) -> list[Trial]:
  """Fits a law without the largest scales and predicts them.

  Args:
    law: the form.
    x: scales, [n].
    y: errors, [n].
    loss: as for the fit.
    weights: of the squared residuals, [n]; None: all the same.

  Returns:
    A trial for each share of `SHARES` that leaves more points than parameters.
  """
  order = np.argsort(x, kind="stable")
  weights = np.ones(len(x)) if weights is None else weights
  done = []
  for count in sorted({max(1, round(share * len(x))) for share in SHARES}):
    kept, left = order[:-count], order[-count:]
    if len(kept) <= len(law.parameters):
      continue
    try:
      problem = Problem.of(law, x[kept], y[kept], weights[kept], loss)
    except DataError:
      continue
    parameters, _ = problem.solve()
    predicted = law(x[left] / problem.unit, parameters[0])
    done.append(Trial(x[left], y[left], np.maximum(predicted, 1e-12), count))
  return done


def error(done: Sequence[Trial]) -> float:
  """Returns the RMS log error of trials, each counting the same."""
  return float(np.sqrt(np.mean([np.mean(np.log(t.predicted / t.measured) ** 2) for t in done])))


def rivals(solution: Solution) -> list[Candidate]:
  """Compares the forms on the points of a fitted law, with its loss and weights; see `compare`."""
  problem = solution.problem
  return compare(problem.x * problem.unit, problem.y, problem.loss, problem.weights)


def compare(
  x: Array,
  y: Array,
  loss: Loss | None = None,
  weights: Array | None = None,
  forms: Sequence[str] = FORMS,
) -> list[Candidate]:
  """Fits several forms and weighs them by the error on the left-out largest scales.

  Args:
    x: scales, [n].
    y: errors, [n].
    loss: residual and Huber threshold.
    weights: of the squared residuals, [n]; None: all the same.
    forms: names of laws; those with too many parameters for the points are passed over.

  Returns:
    Candidates, best first.

  Raises:
    DataError: no form has few enough parameters, or an error is 0 (or less).
  """
  if (y <= 0).any():
    raise DataError("errors of 0 have no relative error: forms are not compared")
  loss = loss or Loss()
  tried = []
  for name in forms:
    law = laws.get(name)
    done = trials(law, x, y, loss, weights)
    if done:
      tried.append((Solution.of(law, x, y, weights, loss), done, error(done)))
  if not tried:
    raise DataError(f"{len(x)} points are too few to leave any out: no form can be compared")
  # No form is told apart from another within the points' own scatter.
  scatter = min((s.scatter.variance for s, _, _ in tried if s.scatter.degrees > 0), default=0.0)
  floor = scatter * float(np.mean(1 / (y**2 * loss.precision(y))))
  evidence = np.array([-EVIDENCE / 2 * np.log(e**2 + floor + 1e-12) for _, _, e in tried])
  weights = np.exp(evidence - evidence.max())
  weights /= weights.sum()
  found = [Candidate(*row, float(w)) for row, w in zip(tried, weights, strict=True)]
  return sorted(found, key=lambda candidate: candidate.error)


def average(candidates: Sequence[Candidate], x: Array) -> Array:
  """Returns the weighted geometric mean of the forms at x [k]."""
  logs = [c.weight * np.log(np.maximum(c.solution(x), 1e-12)) for c in candidates]
  return np.exp(np.sum(logs, axis=0))


def interval(
  candidates: Sequence[Candidate], x: Array, *, measurement: bool = False, level: float = 0.95
) -> tuple[Array, Array]:
  """Returns the interval of the average, [k] each: it holds the forms' disagreement as well.

  Each form's interval stands for a two-piece normal distribution of log E; their mixture gives
  the quantiles.
  """
  used = [c for c in candidates if c.weight > 1e-3]
  weights = np.array([c.weight for c in used])
  weights /= weights.sum()
  centre = np.log(np.maximum([c.solution(x) for c in used], 1e-12))  # [forms, k]
  ends = np.array([c.solution.interval(x, measurement=measurement) for c in used])
  with np.errstate(divide="ignore", invalid="ignore"):
    spread = np.abs(np.log(ends) - centre[:, None]) / 1.96
  spread = np.clip(np.where(np.isfinite(spread), spread, _OPEN), 1e-9, _OPEN)
  low, high = np.empty(len(x)), np.empty(len(x))
  for i in range(len(x)):
    around = spread[:, :, i].max() * 5
    grid = np.linspace(centre[:, i].min() - around, centre[:, i].max() + around, 4001)
    away = grid[None] - centre[:, i, None]
    scale = np.where(away < 0, spread[:, 0, i, None], spread[:, 1, i, None])
    mixture = weights @ ndtr(away / scale)
    tail = (1 - level) / 2
    low[i], high[i] = np.exp(np.interp([tail, 1 - tail], mixture, grid))
  return low, high
