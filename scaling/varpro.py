"""Global least squares by variable projection, for many weightings of the same points at once.

Given the nonlinear parameters, the best linear ones under lambda >= 0 are found exactly by going
through all active sets (k <= 4), so that the search runs over the nonlinear parameters alone
(Golub & Pereyra 1973). There it is a grid that covers the whole domain: no starting point, no
local minimum. Every quantity the inner problem needs is a weighted sum over points, so all
resamples share one matrix product per sum.
"""

from __future__ import annotations

import itertools

import numpy as np

from scaling.lawform import Array, Law

_GROUP = 1 << 22  # numbers held at once: bounds the memory of resamples x nodes


def nonnegative(gram: Array, moment: Array) -> tuple[Array, Array]:
  """Solves min_{l >= 0} l' G l - 2 h' l for a batch of small problems, exactly.

  Args:
    gram: G, [..., k, k], symmetric positive semi-definite.
    moment: h, [..., k].

  Returns:
    The minimisers [..., k] and the minima [...].
  """
  k = moment.shape[-1]
  solution = np.zeros(moment.shape)
  value = np.zeros(moment.shape[:-1])
  for size in range(1, k + 1):
    for active in itertools.combinations(range(k), size):
      trial = _solve(gram[..., active, :][..., active], moment[..., active])
      with np.errstate(invalid="ignore", over="ignore"):
        objective = -np.einsum("...i,...i->...", trial, moment[..., active])
        better = (trial >= 0).all(-1) & np.isfinite(objective) & (objective < value)
      value = np.where(better, objective, value)
      full = np.zeros(moment.shape)
      full[..., active] = trial
      solution = np.where(better[..., None], full, solution)
  return solution, value


def _solve(gram: Array, moment: Array) -> Array:
  """Solves small symmetric systems; a singular one gives values that are not finite."""
  k = moment.shape[-1]
  with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
    if k == 1:
      return moment / gram[..., 0]
    if k == 2:
      a, b, d = gram[..., 0, 0], gram[..., 0, 1], gram[..., 1, 1]
      det = a * d - b * b
      det = np.where(det > 1e-13 * a * d, det, np.nan)
      first = (d * moment[..., 0] - b * moment[..., 1]) / det
      second = (a * moment[..., 1] - b * moment[..., 0]) / det
      return np.stack([first, second], axis=-1)
  scale = np.sqrt(np.einsum("...ii->...i", gram))
  scale = np.where(scale > 0, scale, 1.0)
  scaled = gram / (scale[..., :, None] * scale[..., None, :]) + 1e-13 * np.eye(k)
  return np.linalg.solve(scaled, (moment / scale)[..., None])[..., 0] / scale


def search(law: Law, x: Array, y: Array, weights: Array, nodes: Array) -> tuple[Array, Array]:
  """Finds the best node and its linear parameters for every weighting.

  Args:
    law: a separable law.
    x: scales, [n] or [n, 2].
    y: errors, [n].
    weights: weights of the squared residuals, [r, n].
    nodes: nonlinear parameters, [m, q].

  Returns:
    Parameters [r, p] in the law's order, and the weighted sums of squares [r, m] of all nodes.
  """
  basis = law.basis(x, nodes)  # [m, n, k]
  k = basis.shape[-1]
  pairs = [(i, j) for i in range(k) for j in range(i, k)]
  count, m = len(weights), len(nodes)
  parameters = np.empty((count, len(law.parameters)))
  sums = np.empty((count, m))
  products = np.stack([basis[..., i] * basis[..., j] for i, j in pairs], axis=-1)
  moments = basis * y[:, None]
  step = max(1, _GROUP // (m * k * k))
  for begin in range(0, count, step):
    rows = slice(begin, begin + step)
    w = weights[rows]
    packed = np.tensordot(w, products, axes=(1, 1))  # [r, m, pairs]
    gram = np.empty((len(w), m, k, k))
    for index, (i, j) in enumerate(pairs):
      gram[..., i, j] = gram[..., j, i] = packed[..., index]
    linear, value = nonnegative(gram, np.tensordot(w, moments, axes=(1, 1)))
    sums[rows] = value + (w @ (y * y))[:, None]
    best = sums[rows].argmin(axis=1)
    parameters[rows] = join(law, nodes[best], linear[np.arange(len(w)), best])
  return parameters, sums


def join(law: Law, nonlinear: Array, linear: Array) -> Array:
  """Puts nonlinear [..., q] and linear [..., k] parameters into the law's order [..., p]."""
  parts = dict(zip(law.nonlinear, np.moveaxis(nonlinear, -1, 0), strict=True))
  parts |= dict(zip(law.linear, np.moveaxis(linear, -1, 0), strict=True))
  return np.stack([parts[name] for name in law.parameters], axis=-1)
