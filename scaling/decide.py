"""From a law to a decision: compute for an error, model size and images, and the next run."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.special import stdtrit

from scaling.lawform import Array
from scaling.measurements import number
from scaling.result import ALLOCATION, Fit
from scaling.solution import Solution

_DECADES = 8  # how far beyond the data a target is looked for
_STEPS = 161


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
    low: lower end of the 95% interval for the trend.
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
  approaches of arXiv 2203.15556, section 3.1). Columns that the data lack are left out.
  """
  found = {}
  rows = [fit.points.rows[i] if fit.points.rows else {} for i in fit.frontier]
  scale = fit.points.x[fit.frontier]
  for name in ALLOCATION:
    has = np.array([(number(row.get(name)) or 0) > 0 for row in rows])
    if has.sum() < 3:
      continue
    log_x = np.log(scale[has])
    log_y = np.log([float(row[name]) for row, h in zip(rows, has, strict=True) if h])
    found[name] = _trend(log_x, log_y, np.log(x))
  return found


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
