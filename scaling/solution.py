"""A law fitted to one set of points, with what the points say about it."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from scaling import profiles
from scaling.estimate import Problem
from scaling.lawform import Array, Law
from scaling.leastsquares import Loss


@dataclasses.dataclass(frozen=True)
class Solution:
  """Estimate and scatter of one problem.

  Attributes:
    problem: the points and the law.
    scaled: the estimate for scaled x, [p].
    loss: the least loss.
  """

  problem: Problem
  scaled: Array
  loss: float

  @classmethod
  def of(
    cls, law: Law, x: Array, y: Array, weights: Array | None = None, loss: Loss | None = None
  ) -> Solution:
    """Fits a law to points x [n], y [n].

    Raises:
      DataError: the points cannot be fitted.
    """
    problem = Problem.of(law, x, y, weights, loss)
    parameters, losses = problem.solve()
    return cls(problem, parameters[0], float(losses[0]))

  @functools.cached_property
  def natural(self) -> Array:
    """The estimate for x as given, [p]; a shift d at the lower end of its box is 0."""
    values = self.problem.natural(self.scaled[None])[0]
    for i, name in enumerate(self.problem.law.parameters):
      if name == "d" and self.scaled[i] <= self.problem.lower[i] * 1.001:
        values[i] = 0.0
    return values

  @functools.cached_property
  def scatter(self) -> profiles.Noise:
    """The scatter of the points about the law."""
    return profiles.noise(self.problem, self.scaled, self.loss)

  def __call__(self, x: Array) -> Array:
    """Returns the law's value at x [...]."""
    x = np.asarray(x, np.float64)
    return self.problem.law(x.ravel() / self.problem.unit, self.scaled).reshape(x.shape)

  def profile(self, name: str) -> profiles.Profile:
    """Profiles one parameter."""
    best = self.problem.natural(self.scaled[None])[0]
    return profiles.parameter(self.problem, best, self.scatter, name)

  def interval(self, x: Array, *, measurement: bool = False) -> tuple[Array, Array]:
    """Returns 95% intervals [k] at x [k]: of the law, or of a new measurement there."""
    x = np.atleast_1d(np.asarray(x, np.float64))
    return profiles.predictions(self.problem, self.scaled, self.scatter, x, measurement=measurement)
