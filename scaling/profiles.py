"""Profile likelihood: how well the points can do with one quantity held at a value.

For normal errors of unknown size, the values of a parameter or of a prediction that an F test
with (1, n - k) degrees of freedom does not reject are its 95% interval (Bates & Watts 1988,
section 6.1.2); k counts the parameters that are not at a bound. Unlike standard errors this does
not assume that the law is nearly linear: intervals are lopsided, end at a bound or have no end
where the data say nothing.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.special import stdtrit

from scaling.estimate import Problem
from scaling.lawform import Array

_OFFSETS = np.geomspace(2e-3, 14.0, 16)
_FINER = 5  # values added in the step that holds an end of the interval
_NODES = 1000  # search every value of a profile afresh on grids up to this size
_ANCHOR = 1e3  # weight of the point that draws a law towards a wanted prediction


@dataclasses.dataclass(frozen=True)
class Profile:
  """The best loss as a function of one quantity.

  Attributes:
    name: the quantity.
    values: its values, ascending, [m].
    excess: (loss - least loss) / noise variance, [m]; squares of t.
    limit: the excess at the ends of the interval.
    low: lower end; the lowest value searched where the data set none.
    high: upper end; likewise.
    open_low: no value searched is too low for the data.
    open_high: no value searched is too high for the data.
  """

  name: str
  values: Array
  excess: Array
  limit: float
  low: float
  high: float
  open_low: bool
  open_high: bool


@dataclasses.dataclass(frozen=True)
class Noise:
  """Scatter of the points about the law.

  Attributes:
    variance: of one residual (of weight 1).
    degrees: points less free parameters; 0: the points leave no scatter to see.
  """

  variance: float
  degrees: int

  def limit(self, level: float = 0.95) -> float:
    """Returns the excess at the ends of an interval of that level (inf without scatter)."""
    if self.degrees <= 0:
      return np.inf
    return float(stdtrit(self.degrees, 0.5 + level / 2)) ** 2


def noise(problem: Problem, parameters: Array, loss: float) -> Noise:
  """Estimates the scatter from the least loss; parameters [p] at a bound cost no degree."""
  near = 1e-6 * np.maximum(np.abs(parameters), 1e-300)
  bound = (parameters <= problem.lower + near) | (parameters >= problem.upper - near)
  degrees = int(np.count_nonzero(problem.weights)) - int((~bound).sum())
  return Noise(loss / max(degrees, 1), degrees)


def parameter(problem: Problem, best: Array, scatter: Noise, name: str) -> Profile:
  """Profiles one parameter.

  Args:
    problem: the points and the law.
    best: the estimate, in natural units, [p].
    scatter: what `noise` returned.
    name: the parameter.
  """
  problem = problem.unscaled()
  index = problem.law.parameters.index(name)
  values = _candidates(problem, best, index)
  losses = _held(problem, best, index, values)
  least = float(problem.losses(best[None])[0])
  profile = _profile(name, values, losses, best[index], least, scatter)
  finer = _between(profile, name in problem.law.logarithmic)
  if len(finer) == 0:
    return profile
  more = np.append(values, finer)
  losses = np.append(losses, _held(problem, best, index, finer))
  return _profile(name, more, losses, best[index], least, scatter)


def _held(problem: Problem, best: Array, index: int, values: Array) -> Array:
  """Returns the least loss [m] with a parameter held at each of the values [m]."""
  name = problem.law.parameters[index]
  starts = np.repeat(best[None], len(values), axis=0)
  starts[:, index] = values
  if 0 < len(problem.nodes) <= _NODES:
    searched = np.stack([_start(problem, name, value) for value in values])
    starts = np.concatenate([starts, searched])
  fixed = np.zeros(starts.shape, bool)
  fixed[:, index] = True
  weights = np.broadcast_to(problem.weights, (len(fixed), len(problem.y)))
  _, losses = problem.polish(starts, weights, fixed=fixed)
  return losses.reshape(-1, len(values)).min(axis=0)


def _between(profile: Profile, logarithmic: bool) -> Array:
  """Values inside the steps in which the profile crosses its limit, to place the ends well."""
  finer = []
  for end, is_open in ((profile.low, profile.open_low), (profile.high, profile.open_high)):
    if is_open or not np.isfinite(profile.limit):
      continue
    i = int(np.clip(np.searchsorted(profile.values, end), 1, len(profile.values) - 1))
    left, right = profile.values[i - 1], profile.values[i]
    space = np.geomspace if logarithmic and left > 0 else np.linspace
    finer.append(space(left, right, _FINER + 2)[1:-1])
  return np.concatenate(finer) if finer else np.empty(0)


def _candidates(problem: Problem, best: Array, index: int) -> Array:
  """Values around the estimate, denser near it, within the box."""
  name, centre = problem.law.parameters[index], best[index]
  low, high = problem.lower[index], problem.upper[index]
  if name in problem.law.logarithmic:
    values = centre * np.exp(np.concatenate([-_OFFSETS[::-1], _OFFSETS]))
  else:
    if name == problem.law.floor:
      high = min(high, problem.y.max())
    span = _OFFSETS / _OFFSETS[-1] * (high - low)
    values = centre + np.concatenate([-span[::-1], span])
  return np.unique(np.clip(values, low, high))


def _start(problem: Problem, name: str, value: float) -> Array:
  """The best grid node with one parameter at a value."""
  law = problem.law
  if name in law.linear:
    parameters, losses = problem.node_fits(problem.nodes, {name: value})
  else:
    nodes = problem.nodes.copy()
    nodes[:, law.nonlinear.index(name)] = value
    parameters, losses = problem.node_fits(np.unique(nodes, axis=0))
  return parameters[np.argmin(losses)]


def _profile(
  name: str, values: Array, losses: Array, centre: float, least: float, scatter: Noise
) -> Profile:
  values = np.append(values, centre)
  losses = np.append(losses, least)
  order = np.argsort(values, kind="stable")
  values, losses = values[order], losses[order]
  variance = max(scatter.variance, 1e-300)
  excess = np.maximum(losses - losses.min(), 0.0) / variance
  limit = scatter.limit()
  middle = int(np.argmin(excess))
  low = _crossing(values[middle::-1], excess[middle::-1], limit)
  high = _crossing(values[middle:], excess[middle:], limit)
  return Profile(
    name,
    values,
    excess,
    limit,
    values[0] if low is None else low,
    values[-1] if high is None else high,
    low is None,
    high is None,
  )


def _crossing(values: Array, excess: Array, limit: float) -> float | None:
  """Where the excess, followed away from its minimum, first passes the limit."""
  above = np.flatnonzero(excess > limit)
  if len(above) == 0:
    return None
  i = above[0]
  # The root of the excess is nearly linear in the value.
  left, right = np.sqrt(excess[i - 1]), np.sqrt(excess[i])
  share = (np.sqrt(limit) - left) / (right - left)
  return float(values[i - 1] + share * (values[i] - values[i - 1]))


def predictions(
  problem: Problem, best: Array, scatter: Noise, x: Array, *, measurement: bool = False
) -> tuple[Array, Array]:
  """Intervals for the law at new scales, or for a measurement there.

  Every value e that the law could take at x is tried by adding the point (x, e) to the data:
  with a large weight the refitted law passes there, and the data's own loss is the profile;
  with the weight of one measurement the whole loss says whether e would be a surprise.

  Args:
    problem: the points and the law.
    best: estimate for scaled x, [p].
    scatter: what `noise` returned.
    x: new scales, as given by the user, [k].
    measurement: include the scatter of one measurement.

  Returns:
    Lower and upper ends, [k] each; 0 and inf where the data set none.
  """
  if scatter.degrees <= 0:
    return np.zeros(len(x)), np.full(len(x), np.inf)
  centre = problem.law(x / problem.unit, best)  # [k]
  offsets = np.concatenate([-_OFFSETS[::-1], [0.0], _OFFSETS])
  offsets = offsets[np.abs(offsets) < 3.0]
  targets = centre[:, None] * np.exp(offsets)  # [k, m]
  count = targets.size
  points = np.concatenate(
    [
      np.broadcast_to(problem.x, (count, len(problem.x))),
      np.repeat(x / problem.unit, len(offsets))[:, None],
    ],
    axis=1,
  )
  y = np.concatenate(
    [np.broadcast_to(problem.y, (count, len(problem.y))), targets.reshape(-1, 1)], axis=1
  )
  anchor = 1.0 if measurement else _ANCHOR
  weights = np.concatenate(
    [np.broadcast_to(problem.weights, (count, len(problem.y))), np.full((count, 1), anchor)],
    axis=1,
  )
  extended = dataclasses.replace(problem, x=points, y=y)
  start = np.repeat(best[None], count, axis=0)
  parameters, losses = extended.polish(start, weights, tolerance=1e-7)
  reached = targets.ravel()
  if not measurement:
    losses = problem.losses(parameters)
    own = points[:, -1:]
    reached = problem.law(own, parameters)[:, 0]
  least = float(problem.losses(best[None])[0])
  low, high = np.empty(len(x)), np.empty(len(x))
  for i, (values, loss) in enumerate(
    zip(reached.reshape(targets.shape), losses.reshape(targets.shape), strict=True)
  ):
    profile = _profile("E", values, loss, centre[i], least, scatter)
    low[i] = 0.0 if profile.open_low else profile.low
    high[i] = np.inf if profile.open_high else profile.high
  return low, high
