"""Extrapolates a learning curve: a law averaged over its parameters, with a misfit that drifts.

Principle. A curve is log y = log f(x) + g(log x) + noise: the law f(x) = a (x + d)^-b + c, a drift
g that admits that no law is exact (a Gaussian process in log x whose size grows towards small
scales, where laws fit worst), and noise. Instead of one best fit, all (b, d, c / y_end) on a grid
take part, each with the probability that the curve gives it: the amplitude a and the variance
have been integrated out, drifts of several sizes and lengths are averaged over as well, and mild
priors say which exponents and floors are usual. Because the points' errors are not independent, the
likelihood counts as the share `Settings.tempering` of itself. A prediction is the average of log f
plus what remains of the drift; since a drift is remembered only for its length, the points near the
end of the curve count most, without weights set by hand.

The settings are the same for all curves. They were chosen on the 44 public curves of the benchmark
of arXiv 2209.06640 by their errors on the points to be predicted; `benchmarks/extrapolation.py
--cross-validate` repeats the choice with whole training runs (model x data set) left out. A curve's
own points to be predicted are never seen by its fit.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.special import logsumexp, ndtr, stdtrit

from scaling.errors import DataError
from scaling.lawform import Array

# The grid over the law's shape: exponent, shift and floor as shares of the largest x and of the
# error there.
_EXPONENTS = np.geomspace(0.05, 2.5, 16)
_SHIFTS = np.concatenate([[1e-4], np.geomspace(0.004, 1.0, 8)])
_FLOORS = np.array([0, 0.15, 0.3, 0.45, 0.6, 0.7, 0.78, 0.85, 0.9, 0.94, 0.97, 0.985])
_KNOTS = 16  # scales at which a long list of predictions is made, and interpolated between


@dataclasses.dataclass(frozen=True)
class Settings:
  """What is assumed of all curves.

  Attributes:
    tempering: share of itself that the likelihood counts as.
    noise_growth: the noise's variance grows as x to this.
    drift_decay: the drift's variance falls as x to this.
    drift_sizes: ratios of the drift's variance to the noise's, at the largest x.
    drift_lengths: in units of log x.
    exponent: prior mean of log b, and its standard deviation.
    shift: prior mean of log(d / largest x), and its standard deviation.
    floor: prior density of the floor's share k: (1 - k)^first (k + 0.02)^second.
    resolution: smallest relative scatter about a law that is believed.
  """

  tempering: float = 0.4
  noise_growth: float = 3.0
  drift_decay: float = 1.0
  drift_sizes: tuple[float, ...] = (1.0, 10.0)
  drift_lengths: tuple[float, ...] = (2.0, 6.0)
  exponent: tuple[float, float] = (-0.35, 0.25)
  shift: tuple[float, float] = (-7.0, 1.9)
  floor: tuple[float, float] = (-0.4, -0.25)
  resolution: float = 3e-4


@dataclasses.dataclass(frozen=True)
class Prepared:
  """A curve with the grid's shapes at its points and at the wanted scales.

  Attributes:
    log_x: log(x / largest x), [n].
    log_y: [n].
    at: log(wanted x / largest x), [k].
    shapes: log of the law up to its amplitude, for every node, [m, n].
    wanted: likewise at the wanted scales, [m, k].
    nodes: log b, log d and floor share of every node, [m, 3].
  """

  log_x: Array
  log_y: Array
  at: Array
  shapes: Array
  wanted: Array
  nodes: Array


@dataclasses.dataclass(frozen=True)
class Prediction:
  """Errors at the wanted scales.

  Attributes:
    x: scales, [k].
    y: predicted errors, [k].
    low: lower ends of the 95% intervals for measurements, [k].
    high: upper ends, [k].
  """

  x: Array
  y: Array
  low: Array
  high: Array


def predict(x: Array, y: Array, wanted: Array, settings: Settings | None = None) -> Prediction:
  """Extrapolates one curve.

  Args:
    x: scales that were measured, [n], positive; at least 3.
    y: errors there, [n], positive.
    wanted: scales to predict, [k].
    settings: None: the defaults.

  Raises:
    DataError: too few points, or values that have no logarithm.
  """
  x, y, wanted = (np.asarray(v, np.float64) for v in (x, y, wanted))
  if len(np.unique(x)) < 3:
    raise DataError(f"{len(np.unique(x))} distinct x: extrapolating a curve needs 3")
  if not all(np.isfinite(v).all() and (v > 0).all() for v in (x, y, wanted)):
    raise DataError("x, y and the scales to predict must be positive and finite")
  if len(wanted) > _KNOTS:
    knots = np.geomspace(wanted.min(), wanted.max(), _KNOTS)
    ends = average(prepare(x, y, knots), settings or Settings())
    places = np.log(wanted), np.log(knots)
    return Prediction(wanted, *(np.exp(np.interp(*places, np.log(end))) for end in ends))
  return Prediction(wanted, *average(prepare(x, y, wanted), settings or Settings()))


def prepare(x: Array, y: Array, wanted: Array) -> Prepared:
  """Evaluates the grid's shapes, which do not depend on the settings."""
  top = x.max()
  scale = np.concatenate([x, wanted]) / top
  exponent, shift, floor = (
    v.ravel() for v in np.meshgrid(_EXPONENTS, _SHIFTS, _FLOORS, indexing="ij")
  )
  # All shapes are 1 at the largest x, where the floor's share is k.
  base = np.log((scale[None] + _SHIFTS[:, None]) / (1 + _SHIFTS[:, None]))  # [shift, points]
  falling = np.exp(-_EXPONENTS[:, None, None] * base)[:, :, None, :]
  shapes = np.log((1 - _FLOORS[:, None]) * falling + _FLOORS[:, None])
  shapes = shapes.reshape(-1, len(scale))
  nodes = np.stack([np.log(exponent), np.log(shift), floor], axis=1)
  count = len(x)
  return Prepared(
    np.log(scale[:count]),
    np.log(y),
    np.log(scale[count:]),
    shapes[:, :count],
    shapes[:, count:],
    nodes,
  )


def average(curve: Prepared, settings: Settings) -> tuple[Array, Array, Array]:
  """Returns predicted errors and the ends of their 95% intervals, [k] each."""
  n = len(curve.log_x)
  prior = _prior(curve.nodes, settings)
  noise = np.exp(settings.noise_growth * curve.log_x)
  gap = np.abs(curve.log_x[:, None] - curve.log_x[None])
  ahead = np.abs(curve.at[:, None] - curve.log_x[None])
  decay = np.exp(-0.5 * settings.drift_decay * curve.log_x)
  evidence, centres, spreads = [], [], []
  for size in settings.drift_sizes:
    for length in settings.drift_lengths:
      # The drift stays the size it has at the end of the curve.
      cover = size * np.exp(-gap / length) * decay[:, None] * decay[None]
      cross = size * np.exp(-ahead / length) * decay[None]
      factor = cho_factor(cover + np.diag(noise), lower=True)
      inverse = cho_solve(factor, np.eye(n))
      total = inverse.sum()
      level = (curve.log_y - curve.shapes) @ inverse.sum(axis=0) / total
      residual = curve.log_y - curve.shapes - level[:, None]
      weighted = residual @ inverse
      variance = np.einsum("mn,mn->m", weighted, residual) / n + settings.resolution**2
      determinant = 2 * np.log(np.diag(factor[0])).sum()
      likelihood = -0.5 * ((n - 1) * np.log(variance) + determinant + np.log(total))
      gain = cross @ inverse
      # Variance, in units of the noise's, of a measurement given the points and a node.
      unknown = size + 1 - np.einsum("kn,kn->k", gain, cross)
      unknown = unknown + (1 - gain.sum(axis=1)) ** 2 / total
      evidence.append(settings.tempering * likelihood + prior)
      centres.append(level[:, None] + curve.wanted + weighted @ cross.T)
      spreads.append(np.sqrt(variance[:, None] * unknown))
  log_weight = np.concatenate(evidence)
  weight = np.exp(log_weight - logsumexp(log_weight))
  used = weight > 1e-5
  weight = weight[used] / weight[used].sum()
  centre, spread = np.concatenate(centres)[used], np.concatenate(spreads)[used]
  middle = weight @ centre
  # The tempered likelihood has learnt from that share of the points.
  degrees = max(1.0, settings.tempering * (n - 1))
  spread = spread * stdtrit(degrees, 0.975) / stdtrit(np.inf, 0.975)
  low, high = _quantiles(weight, centre, spread)
  return np.exp(middle), np.exp(low), np.exp(high)


def _prior(nodes: Array, settings: Settings) -> Array:
  exponent, shift, floor = nodes.T
  first, second = settings.floor
  return (
    -0.5 * ((exponent - settings.exponent[0]) / settings.exponent[1]) ** 2
    - 0.5 * ((shift - settings.shift[0]) / settings.shift[1]) ** 2
    + first * np.log(1 - floor)
    + second * np.log(floor + 0.02)
  )


def _quantiles(weight: Array, centre: Array, spread: Array) -> tuple[Array, Array]:
  """Returns the 2.5% and 97.5% quantiles [k] of mixtures of normals, by bisection."""
  ends = []
  for level in (0.025, 0.975):
    left = (centre - 5 * spread).min(axis=0)
    right = (centre + 5 * spread).max(axis=0)
    for _ in range(20):
      middle = (left + right) / 2
      below = weight @ ndtr((middle - centre) / spread) < level
      left, right = np.where(below, middle, left), np.where(below, right, middle)
    ends.append((left + right) / 2)
  return ends[0], ends[1]
