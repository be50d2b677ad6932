"""From a law to a decision: compute for an error, model size and images, and the next run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

from scaling import frontier
from scaling.lawform import Array
from scaling.measurements import number
from scaling.result import ALLOCATION, Fit
from scaling.solution import Solution

_DECADES = 8  # how far beyond the data a target is looked for
_STEPS = 161
_SIZES = 3  # model sizes on the frontier that make a trend
_BETWEEN = 5  # points that the trend without the frontier's edges keeps at least


@dataclasses.dataclass(frozen=True)
class Required:
  """The scale at which the law reaches an error.

  Attributes:
    x: the scale; inf if the law never gets there.
    low: lower end of the 95% interval.
    high: upper end; inf if the data do not rule out that it is never reached.
  """

  x: float
  low: float
  high: float


@dataclasses.dataclass(frozen=True)
class Allocation:
  """How the compute-optimal runs divide their compute, extrapolated.

  Attributes:
    value: parameters or images at the wanted compute.
    low: lower end of the 95% interval for the trend, with and without the frontier's edges.
    high: upper end.
    exponent: of the power law in compute.
  """

  value: float
  low: float
  high: float
  exponent: float


def required(fit: Fit, error: float) -> Required:
  """Returns the scale needed for an error, by inverting the law and its band."""
  x = np.geomspace(fit.points.x.min(), fit.points.x.max() * 10.0**_DECADES, _STEPS)
  low, high = fit.interval(x)
  return Required(*(_first_below(x, curve, error) for curve in (fit(x), low, high)))


def _first_below(x: Array, curve: Array, error: float) -> float:
  below = np.flatnonzero(curve <= error)
  if len(below) == 0:
    return float("inf")
  i = below[0]
  if i == 0:
    return float(x[0])
  if not (np.isfinite(curve[i - 1]) and curve[i] > 0):
    return float(x[i])
  before, after = np.log(curve[i - 1] / error), np.log(curve[i] / error)
  share = before / (before - after)
  return float(np.exp(np.log(x[i - 1]) + share * np.log(x[i] / x[i - 1])))


def allocation(fit: Fit, x: float) -> dict[str, Allocation]:
  """Returns model size and images to see at a compute, from the runs on the frontier.

  Each is a power law of compute through the frontier's points (the first of the three
  approaches of arXiv 2203.15556, section 3.1). The smallest and the largest model hold a grid's
  frontier further than nature's would, which flattens the trend of model size; the points
  between the edges, which begin with the one and end with the other, make it too steep. The
  answer lies midway, and its interval holds both trends' intervals.

  Args:
    fit: a fitted law.
    x: the compute, in the unit of the data.

  Returns:
    By column: "parameters" and "images_seen", those that the data have. Nothing where the
    frontier has runs of fewer than three model sizes, which show no trend.
  """
  found = {}
  rows = [fit.points.rows[i] if fit.points.rows else {} for i in fit.frontier]
  scale = np.log(fit.points.x[fit.frontier])
  models = fit.points.group[fit.frontier]
  sizes = np.array([str(row.get("parameters", m)) for row, m in zip(rows, models, strict=True)])
  for name in ALLOCATION:
    spent = np.array([number(row.get(name)) or 0.0 for row in rows])
    known = np.flatnonzero(spent > 0)
    if len(np.unique(sizes[known])) < _SIZES:
      continue
    parts = [known]
    if fit.variant != "all":
      parts.append(frontier.interior(known, sizes, _BETWEEN))
    found[name] = _midway([_trend(scale[p], np.log(spent[p]), np.log(x)) for p in parts])
  return found


def _midway(trends: Sequence[Allocation]) -> Allocation:
  return Allocation(
    float(np.exp(np.mean([np.log(t.value) for t in trends]))),
    min(t.low for t in trends),
    max(t.high for t in trends),
    float(np.mean([t.exponent for t in trends])),
  )


def _trend(log_x: Array, log_y: Array, at: float) -> Allocation:
  design = np.stack([np.ones_like(log_x), log_x - log_x.mean()], axis=1)
  (level, slope), *_ = np.linalg.lstsq(design, log_y, rcond=None)
  degrees = len(log_x) - 2
  variance = float(((log_y - design @ [level, slope]) ** 2).sum()) / max(degrees, 1)
  away = at - log_x.mean()
  spread = np.sqrt(variance * (1 / len(log_x) + away**2 / (design[:, 1] ** 2).sum()))
  reach = stdtrit(max(degrees, 1), 0.975) * spread
  centre = level + slope * away
  low, value, high = np.exp([centre - reach, centre, centre + reach])
  return Allocation(float(value), float(low), float(high), float(slope))


def next_run(solution: Solution, target: float, most: float) -> tuple[float, float]:
  """Finds the one further run that shrinks the interval at a target scale most.

  The covariance of the estimate (to first order) is updated for a run at each candidate scale;
  a weak prior keeps directions that the data leave open finite.

  Args:
    solution: the fitted law.
    target: the scale whose error is to be predicted.
    most: the largest scale that a run may have.

  Returns:
    The scale of that run, and the interval's width with it as a share of the width without.
  """
  problem = solution.problem
  law = problem.law
  parameters = solution.scaled
  size = np.where([name in law.logarithmic for name in law.parameters], parameters, 1.0)

  def slopes(x: Array) -> Array:
    value = law(x, parameters)
    jacobian = law.jacobian(x, parameters) * size
    return jacobian * np.sqrt(problem.loss.precision(value))[:, None]

  variance = max(solution.scatter.variance, 1e-12)
  rows = slopes(problem.x)
  precision = rows.T @ (rows * problem.weights[:, None]) / variance + 1e-2 * np.eye(len(size))
  covariance = np.linalg.inv(precision)
  wanted = slopes(np.array([target]) / problem.unit)[0]
  candidates = np.geomspace((problem.x * problem.unit).min(), most, 200)
  new = slopes(candidates / problem.unit)
  gain = (new @ covariance @ wanted) ** 2 / (
    variance + np.einsum("ip,pq,iq->i", new, covariance, new)
  )
  best = int(np.argmax(gain))
  left = 1 - gain[best] / (wanted @ covariance @ wanted)
  return float(candidates[best]), float(np.sqrt(max(left, 0.0)))
