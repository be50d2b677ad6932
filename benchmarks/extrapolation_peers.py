"""The estimators M1 to M4 of arXiv 2209.06640, to be beaten by `benchmarks/extrapolation.py`.

Re-implemented from the paper (sections 3 and 4) and the description of its procedure: regression on
logarithms in turn with updates of the limits e_inf and e_0, gradient steps first, then damped
Newton steps, until the factor beta stands still. The result is where that procedure stops, which is
not the least-squares solution; a better minimiser makes M2 and M4 predict worse, not better. All
curves are run side by side.
"""

from __future__ import annotations

import numpy as np

from scaling.varpro import nonnegative

_MARGIN = 1e-3  # e_inf stays that far below the lowest loss, e_0 above the highest
_GRADIENT_ROUNDS = 100
_NEWTON_STEPS = 100


def m1(curves, wanted):
  """E = beta x^c."""
  return [_power(*_line(x, y), t) for (x, y), t in zip(curves, wanted, strict=True)]


def m2(curves, wanted, rounds=10_000):
  """E = beta x^c + e_inf."""
  floor, _, solution = _alternate(curves, rounds, guessing=False)
  return [
    e + np.exp(s[0] - s[1] * np.log(t)) for e, s, t in zip(floor, solution, wanted, strict=True)
  ]


def m3(curves, wanted, rounds=10_000):
  """E = beta (1/x + gamma)^c."""
  return [_m3(x, y, t, rounds) for (x, y), t in zip(curves, wanted, strict=True)]


def m4(curves, wanted, rounds=10_000):
  """(E - e_inf) / (e_0 - E)^alpha = beta x^c."""
  floor, top, solution = _alternate(curves, rounds, guessing=True)
  return [_solve(*row) for row in zip(floor, top, solution, wanted, strict=True)]


PEERS = {"M1": m1, "M2": m2, "M3": m3, "M4": m4}


def _line(x, y):
  design = np.stack([np.ones_like(x), np.log(x)], axis=1)
  return np.linalg.lstsq(design, np.log(y), rcond=None)[0]


def _power(offset, slope, t):
  return np.exp(offset + slope * np.log(t))


def _m3(x, y, t, rounds):
  gamma, before = 0.0, 1.0
  for _ in range(rounds):
    offset, slope = _line(1 / x + gamma, y)
    slope, beta = max(slope, 0.0), np.exp(offset)
    if slope > 0:  # candidates: the gammas that put one point on the curve
      trial = np.append((y / beta) ** (1 / slope) - 1 / x, gamma)
      trial = trial[np.isfinite(trial) & (trial >= 0)]
      misfit = np.log(y) - offset - slope * np.log(1 / x + trial[:, None])
      gamma = trial[np.argmin((misfit**2).sum(axis=1))]
    if abs(beta - before) < 1e-10:
      break
    before = beta
  return np.exp(offset + slope * np.log(1 / t + gamma))


def _alternate(curves, rounds, guessing):
  """Returns e_inf [k], e_0 [k] and (log beta, -c, alpha) [k, 3] of every curve."""
  n = max(len(x) for x, _ in curves)
  low = np.array([y.min() for _, y in curves]) - _MARGIN
  high = np.array([y.max() for _, y in curves]) + _MARGIN
  count = np.array([len(x) for x, _ in curves])
  x, mask = np.ones((len(curves), n)), np.zeros((len(curves), n))
  y = np.repeat((low + high)[:, None] / 2, n, axis=1)  # padding, masked out of every sum
  for i, (scale, loss) in enumerate(curves):
    x[i, : len(scale)], y[i, : len(loss)], mask[i, : len(loss)] = scale, loss, 1
  log_x = np.log(x)
  # The regression sees the first guess of e_0, 1, throughout.
  columns = [np.ones_like(x), -log_x] + ([np.log(1.0 - y)] if guessing else [])
  design = np.stack(columns, axis=-1) * mask[..., None]
  gram = np.swapaxes(design, 1, 2) @ design
  floor, top = low.copy(), np.maximum(np.ones(len(curves)), high)
  solution, before = np.zeros((len(curves), 3)), np.ones(len(curves))
  live = np.arange(len(curves))
  for turn in range(rounds):
    d, m, z = design[live], mask[live], y[live]
    moment = np.einsum("kni,kn->ki", d, np.log(z - floor[live, None]) * m)
    if guessing:
      fit, _ = nonnegative(gram[live], moment)
    else:
      fit = np.linalg.solve(gram[live], moment[..., None])[..., 0]
    solution[live, : fit.shape[1]] = fit
    line = solution[live, :1] - solution[live, 1:2] * log_x[live]
    floor[live], top[live] = _limits(
      z,
      m,
      count[live],
      line,
      solution[live, 2],
      floor[live],
      top[live],
      low[live],
      high[live],
      newton=turn >= _GRADIENT_ROUNDS,
    )
    beta = np.exp(solution[live, 0])
    stay = (np.abs(beta - before[live]) >= 1e-10) | (turn <= _GRADIENT_ROUNDS + 1)
    before[live] = beta
    live = live[stay]
    if len(live) == 0:
      break
  return floor, top, solution


def _limits(y, mask, count, line, alpha, floor, top, low, high, newton):
  """Moves e_inf and e_0 down the squared residuals of the regression."""
  for _ in range(_NEWTON_STEPS if newton else 10):
    above, below = y - floor[:, None], top[:, None] - y
    residual = (np.log(above) - alpha[:, None] * np.log(below) - line) * mask
    slope_floor = -(residual / above).sum(axis=1) / count
    slope_top = -alpha * (residual / below).sum(axis=1) / count
    if newton:
      bend_floor = ((1 - residual) / above**2 * mask).sum(axis=1) / count
      bend_top = alpha * ((alpha[:, None] + residual) / below**2 * mask).sum(axis=1) / count
      move_floor, move_top = (
        np.where(np.abs(bend) > 1e-5, 0.1 * slope / np.where(bend == 0, 1, bend), 0.0)
        for slope, bend in ((slope_floor, bend_floor), (slope_top, bend_top))
      )
    else:  # ten steps of 1e-6 stand for the thousand of 1e-8
      move_floor, move_top = 1e-6 * slope_floor, 1e-6 * slope_top
    floor = np.clip(floor - move_floor, 0.0, low)
    top = np.maximum(top - move_top, high)
  return floor, top


def _solve(floor, top, solution, t):
  """Solves w = f (e_0 - e_inf - w)^alpha for w = E - e_inf by bisection."""
  offset, slope, alpha = solution
  f = np.exp(offset - slope * np.log(t))
  if alpha < 1e-5:
    return floor + f
  left, right = np.zeros(len(t)), np.full(len(t), top - floor)
  for _ in range(60):
    middle = (left + right) / 2
    high = middle > f * (top - floor - middle) ** alpha
    left, right = np.where(high, left, middle), np.where(high, middle, right)
  return floor + (left + right) / 2
