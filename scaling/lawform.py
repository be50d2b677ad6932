"""What a scaling law is: the interface that fitting, profiles and figures rely on.

A law is a function of a positive scale x (compute, images, steps). Arrays broadcast: x is
[..., n] (two-variable laws: [..., n, 2]), parameters are [..., p] in the order of `parameters`;
values are [..., n] and Jacobians [..., n, p]. Separable laws are linear in some parameters, given
the others; `basis` returns the functions that those multiply, which is what variable projection
(`scaling.varpro`) needs.
"""

from __future__ import annotations

import abc
import dataclasses

import numpy as np

Array = np.ndarray


def columns(parameters: Array) -> list[Array]:
  """Splits [..., p] into p arrays [..., 1] that broadcast against x [..., n]."""
  parameters = np.asarray(parameters, dtype=np.float64)
  return [parameters[..., i, None] for i in range(parameters.shape[-1])]


@dataclasses.dataclass(frozen=True)
class Law(abc.ABC):
  """What every law has; the forms in `scaling.laws` fill in the functions.

  Attributes:
    name: the name used on the command line and in law.json.
    formula: the law as text.
    source: where the form was published.
    parameters: names, in the order of the parameter arrays.
    linear: the parameters in which the law is linear, given the others.
    logarithmic: the parameters that are positive and searched on a logarithmic scale.
    variables: number of columns of x.
  """

  name: str
  formula: str
  source: str
  parameters: tuple[str, ...]
  linear: tuple[str, ...]
  logarithmic: tuple[str, ...]
  variables: int = 1
  domain: str = "x > 0"

  @property
  def nonlinear(self) -> tuple[str, ...]:
    """The parameters that the search runs over."""
    return tuple(p for p in self.parameters if p not in self.linear)

  @property
  def floor(self) -> str | None:
    """The name of the irreducible error, if the law has one."""
    if self.variables == 1:
      return "c" if "c" in self.parameters else None
    return next((p for p in ("E", "eps") if p in self.parameters), None)

  @property
  def separable(self) -> bool:
    """Whether variable projection applies."""
    return bool(self.linear)

  @abc.abstractmethod
  def __call__(self, x: Array, parameters: Array) -> Array:
    """Returns the law's value [..., n]."""

  @abc.abstractmethod
  def jacobian(self, x: Array, parameters: Array) -> Array:
    """Returns d value / d parameter, [..., n, p]."""

  def linearise(self, x: Array, parameters: Array) -> tuple[Array, Array]:
    """Returns value and Jacobian; laws that share work between them do both at once."""
    return self(x, parameters), self.jacobian(x, parameters)

  def basis(self, x: Array, nonlinear: Array) -> Array:
    """Returns [..., n, k]: what each of the `linear` parameters multiplies."""
    raise TypeError(f"law {self.name} is not separable")

  def grid(self, x: Array) -> Array:
    """Returns nonlinear parameters [m, q] that cover the domain."""
    raise TypeError(f"law {self.name} is not separable")

  @abc.abstractmethod
  def bounds(self, x: Array) -> tuple[Array, Array]:
    """Returns the search box: lower [p] and upper [p]."""

  def starts(self, x: Array, y: Array) -> Array:
    """Returns parameters [m, p] to search from; only laws that are not separable."""
    raise TypeError(f"law {self.name} is separable: it has a grid")

  @abc.abstractmethod
  def rescale(self, parameters: Array, unit: Array | float) -> Array:
    """Turns parameters for x / unit into parameters for x."""
