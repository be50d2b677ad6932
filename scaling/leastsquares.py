"""Levenberg-Marquardt within a box, for a batch of problems that share one law.

Used to polish what the global search (`scaling.varpro`) finds: exact log residuals, Huber loss,
parameters held fixed (profiles). Every problem of the batch keeps its own damping.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from scaling.errors import DataError
from scaling.lawform import Array, Law
from scaling.measurements import is_finite

RESIDUALS = ("log", "linear", "binomial")
_EDGE = 1e-9  # a fraction is kept this far from 0 and 1


@dataclasses.dataclass(frozen=True)
class Loss:
  """How a misfit is measured.

  Attributes:
    residual: "log" for log E - log y, "linear" for E - y, "binomial" for the difference of
      2 arcsin sqrt, whose variance is that of counting errors on a test set, 1 / images, at
      every error (Anscombe 1948).
    huber: residuals beyond this count linearly (same unit as the residual); None: squares.

  Raises:
    DataError: no such residual, or a threshold that is not positive.
  """

  residual: str = "log"
  huber: float | None = None

  def __post_init__(self) -> None:
    if self.residual not in RESIDUALS:
      raise DataError(f"unknown residual {self.residual!r} (known: {', '.join(RESIDUALS)})")
    if self.huber is not None and not (is_finite(self.huber) and self.huber > 0):
      raise DataError(f"huber {self.huber}: the threshold must be a positive number")

  def residuals(self, value: Array, jacobian: Array, y: Array) -> tuple[Array, Array]:
    """Returns residuals [..., n] and their Jacobian [..., n, p]."""
    if self.residual == "linear":
      return value - y, jacobian
    if self.residual == "binomial":
      value, y = (np.clip(v, _EDGE, 1 - _EDGE) for v in (value, y))
      residual = 2 * (np.arcsin(np.sqrt(value)) - np.arcsin(np.sqrt(y)))
      return residual, jacobian / np.sqrt(value * (1 - value))[..., None]
    value = np.maximum(value, 1e-300)
    return np.log(value) - np.log(y), jacobian / value[..., None]

  def precision(self, y: Array) -> Array:
    """Returns the weights [n] with which linear residuals are this loss's, to first order."""
    if self.residual == "linear":
      return np.ones_like(y)
    return 1 / y**2 if self.residual == "log" else 1 / np.clip(y * (1 - y), _EDGE, None)

  def reweight(self, residual: Array) -> Array:
    """Returns the factor on each squared residual whose gradient is Huber's."""
    if self.huber is None:
      return np.ones_like(residual)
    size = np.abs(residual)
    return np.where(size <= self.huber, 1.0, self.huber / np.maximum(size, 1e-300))

  def total(self, residual: Array, weights: Array) -> Array:
    """Returns sum w rho(r), with rho(r) = r^2 near zero, so that squares need no factor."""
    if self.huber is None:
      return np.einsum("...n,...n->...", weights, residual**2)
    size = np.abs(residual)
    rho = np.where(size <= self.huber, residual**2, 2 * self.huber * size - self.huber**2)
    return np.einsum("...n,...n->...", weights, rho)


def minimise(
  law: Law,
  x: Array,
  y: Array,
  weights: Array,
  start: Array,
  lower: Array,
  upper: Array,
  loss: Loss,
  *,
  fixed: Array | None = None,
  iterations: int = 100,
  tolerance: float = 1e-9,
) -> tuple[Array, Array]:
  """Minimises the weighted loss from `start`, one problem per row.

  Args:
    law: the law.
    x: scales [n] or [r, n] (two variables: a last axis of 2).
    y: errors [n] or [r, n].
    weights: [r, n].
    start: parameters [r, p].
    lower: bounds [p].
    upper: bounds [p].
    loss: residual and Huber threshold.
    fixed: bool [r, p], the parameters to hold at their start; None: none.
    iterations: the most steps taken.
    tolerance: a row has converged when a step gains less than this share of its loss.

  Returns:
    Parameters [r, p] and losses [r].
  """
  count, p = start.shape
  positive = np.array([name in law.logarithmic for name in law.parameters])
  low, high = (_to_search(bound, positive) for bound in (lower, upper))
  z = np.clip(_to_search(start, positive), low, high)
  fixed = np.zeros((count, p), bool) if fixed is None else fixed
  z = np.where(fixed, _to_search(start, positive), z)
  x = np.broadcast_to(x, (count, *x.shape)) if x.ndim == law.variables else x
  y = np.broadcast_to(y, (count, y.shape[-1]))
  weights = np.broadcast_to(weights, (count, y.shape[-1]))
  final, final_loss = z.copy(), np.full(count, np.inf)

  rows = np.arange(count)
  damping = np.full(count, 1e-3)
  residual, slope = _linearise(law, x, y, z, positive, loss)
  current = loss.total(residual, weights)
  for _ in range(iterations):
    factor = weights * loss.reweight(residual)
    weighted = slope * factor[..., None]
    gradient = np.einsum("rnp,rn->rp", weighted, residual)
    hessian = np.swapaxes(weighted, 1, 2) @ slope
    stuck = fixed | ((z <= low) & (gradient > 0)) | ((z >= high) & (gradient < 0))
    diagonal = np.einsum("rpp->rp", hessian)
    system = hessian + (damping[:, None] * diagonal + 1e-14)[..., None] * np.eye(p)
    free = ~stuck
    system = np.where(free[:, :, None] & free[:, None, :], system, np.eye(p))
    step = -np.linalg.solve(system, np.where(free, gradient, 0.0)[..., None])[..., 0]
    # A step of more than e^2 in a logarithmic parameter leaves the region where the
    # linearisation says anything.
    step = np.where(positive, np.clip(step, -2.0, 2.0), step)
    trial = np.clip(z + step, np.where(fixed, -np.inf, low), np.where(fixed, np.inf, high))
    trial_residual, trial_slope = _linearise(law, x, y, trial, positive, loss)
    value = loss.total(trial_residual, weights)
    better = value < current
    done = better & (current - value <= tolerance * current) | (damping > 1e10)
    done |= ~np.isfinite(current) | (current < 1e-28)
    z = np.where(better[:, None], trial, z)
    residual = np.where(better[:, None], trial_residual, residual)
    slope = np.where(better[:, None, None], trial_slope, slope)
    current = np.where(better, value, current)
    damping = np.clip(np.where(better, damping * 0.2, damping * 6.0), 1e-12, 1e12)
    final[rows], final_loss[rows] = z, current
    if done.any():  # converged rows leave the batch
      keep = ~done
      if not keep.any():
        break
      rows, z, x, y = rows[keep], z[keep], x[keep], y[keep]
      weights, residual, slope = weights[keep], residual[keep], slope[keep]
      current, damping, fixed = current[keep], damping[keep], fixed[keep]
  return _from_search(final, positive), final_loss


def _linearise(
  law: Law, x: Array, y: Array, z: Array, positive: Array, loss: Loss
) -> tuple[Array, Array]:
  parameters = _from_search(z, positive)
  with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
    value, jacobian = law.linearise(x, parameters)
    jacobian = jacobian * np.where(positive, parameters, 1.0)[:, None, :]
    residual, slope = loss.residuals(value, jacobian, y)
  bad = ~np.isfinite(residual)
  return np.where(bad, 1e6, residual), np.where(bad[..., None] | ~np.isfinite(slope), 0.0, slope)


def _to_search(parameters: Array, positive: Array) -> Array:
  safe = np.where(positive, np.maximum(parameters, 1e-300), 1.0)
  return np.where(positive, np.log(safe), parameters)


def _from_search(z: Array, positive: Array) -> Array:
  return np.where(positive, np.exp(np.where(positive, z, 0.0)), z)
