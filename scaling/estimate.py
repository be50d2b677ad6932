"""Point estimates: global search by variable projection, then an exact polish.

x is divided by its geometric mean inside, so that the search box and the conditioning do not
depend on the unit of compute.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from scaling.errors import DataError
from scaling.lawform import Array, Law
from scaling.leastsquares import Loss, minimise
from scaling.varpro import join, nonnegative, search

_STARTS = 8


@dataclasses.dataclass(frozen=True)
class Problem:
  """Points and a law, in units in which x is near 1.

  Attributes:
    law: the law.
    x: scales divided by `unit`, [n] or [n, 2].
    y: errors, [n].
    weights: weights of the squared residuals, [n], mean 1.
    loss: residual and Huber threshold.
    unit: geometric mean of the given x, scalar or [2].
    nodes: grid of nonlinear parameters, [m, q].
    lower: search box, [p].
    upper: search box, [p].
  """

  law: Law
  x: Array
  y: Array
  weights: Array
  loss: Loss
  unit: Array | float
  nodes: Array
  lower: Array
  upper: Array

  @classmethod
  def of(
    cls, law: Law, x: Array, y: Array, weights: Array | None = None, loss: Loss | None = None
  ) -> Problem:
    """Checks and scales the points.

    Raises:
      DataError: fewer points than parameters, or values that no law can take.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    loss = loss or Loss()
    if len(np.unique(x, axis=0)) < len(law.parameters):
      raise DataError(
        f"{len(np.unique(x, axis=0))} distinct x for the {len(law.parameters)} parameters "
        f"of {law.formula}: measure more scales or choose a smaller law"
      )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
      raise DataError("x and y must be finite numbers")
    if (x <= 0).any():
      raise DataError("x must be positive")
    if loss.residual == "log" and (y <= 0).any():
      raise DataError("log residuals need y > 0: drop those points or use linear residuals")
    if loss.residual == "binomial" and ((y <= 0) | (y >= 1)).any():
      raise DataError("binomial residuals need 0 < y < 1: use log residuals for losses")
    weights = np.ones(len(y)) if weights is None else np.asarray(weights, np.float64)
    unit = np.exp(np.log(x).mean(axis=0))
    scaled = x / unit
    lower, upper = law.bounds(scaled)
    weights = weights / weights.mean()
    nodes = law.grid(scaled) if law.separable else np.empty((0, len(law.parameters)))
    return cls(law, scaled, y, weights, loss, unit, nodes, lower, upper)

  def unscaled(self) -> Problem:
    """Returns the same problem for x as given, where a natural parameter can be held fixed."""
    x = self.x * self.unit
    lower, upper = self.law.bounds(x)
    nodes = self.law.grid(x) if self.law.separable else self.nodes
    return dataclasses.replace(self, x=x, unit=1.0, nodes=nodes, lower=lower, upper=upper)

  @property
  def relative(self) -> Array:
    """Weights under which linear residuals are, to first order, this loss's, [n]."""
    return self.loss.precision(self.y)

  def solve(self, weights: Array | None = None) -> tuple[Array, Array]:
    """Estimates the parameters for each weighting of the points.

    Args:
      weights: [r, n]; None: the problem's own, one row.

    Returns:
      Parameters for scaled x, [r, p], and losses [r].
    """
    if weights is not None:
      if self.law.separable:
        start, _ = search(self.law, self.x, self.y, weights * self.relative, self.nodes)
      else:
        best, _ = self.solve()
        start = np.repeat(best, len(weights), axis=0)
      return self.polish(start, weights)
    starts = self._starts() if self.law.separable else self.law.starts(self.x, self.y)
    weights = np.repeat(self.weights[None], len(starts), axis=0)
    parameters, losses = self.polish(starts, weights)
    best = int(np.argmin(losses))
    return parameters[best : best + 1], losses[best : best + 1]

  def polish(self, start: Array, weights: Array, **options: object) -> tuple[Array, Array]:
    """Minimises the exact loss from `start` [r, p] within the box; see `minimise`."""
    return minimise(
      self.law, self.x, self.y, weights, start, self.lower, self.upper, self.loss, **options
    )

  def node_fits(self, nodes: Array, held: dict[str, float] | None = None) -> tuple[Array, Array]:
    """Fits the linear parameters at every node, those in `held` being given.

    Args:
      nodes: nonlinear parameters, [m, q].
      held: linear parameters by name that are not to be fitted.

    Returns:
      Parameters [m, p] and exact losses [m].
    """
    held = held or {}
    law, y = self.law, self.y
    basis = law.basis(self.x, nodes)  # [m, n, k]
    known = np.array([held.get(name, 0.0) for name in law.linear])
    free = [i for i, name in enumerate(law.linear) if name not in held]
    rest = y - basis @ known
    scaled = basis[..., free] * (self.weights * self.relative)[:, None]
    gram = np.swapaxes(scaled, -1, -2) @ basis[..., free]
    linear = np.broadcast_to(known, (len(nodes), len(known))).copy()
    linear[:, free], _ = nonnegative(gram, np.einsum("mnk,mn->mk", scaled, rest))
    parameters = join(law, nodes, linear)
    return parameters, self.losses(parameters)

  def losses(self, parameters: Array) -> Array:
    """Returns the exact loss [...] of each row of parameters [..., p]."""
    with np.errstate(all="ignore"):
      value = self.law(self.x, parameters)
      residual, _ = self.loss.residuals(value, np.zeros((*value.shape, 1)), self.y)
      losses = self.loss.total(residual, np.broadcast_to(self.weights, residual.shape))
    return np.where(np.isfinite(losses), losses, np.inf)

  def _starts(self) -> Array:
    """The best nodes, thinned so that they lie in different places."""
    parameters, losses = self.node_fits(self.nodes)
    order = np.argsort(losses, kind="stable")
    chosen = list(order[:2]) + list(order[2 : len(order) // 2 : max(1, len(order) // 16)])
    return parameters[chosen[:_STARTS]]

  def natural(self, parameters: Array) -> Array:
    """Turns parameters for scaled x into parameters for x as given."""
    return self.law.rescale(parameters, self.unit)
