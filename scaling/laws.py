"""Scaling laws: formula, domain, value, Jacobian and source of each form.

A law is a function of a positive scale x (compute, images, steps). Arrays broadcast: x is
[..., n] (two-variable laws: [..., n, 2]), parameters are [..., p] in the order of `parameters`;
values are [..., n] and Jacobians [..., n, p]. Separable laws are linear in some parameters, given
the others; `basis` returns the functions that those multiply, which is what variable projection
(`scaling.varpro`) needs.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from scaling.errors import DataError, nearest

Array = np.ndarray


def _columns(parameters: Array) -> list[Array]:
    """Splits [..., p] into p arrays [..., 1] that broadcast against x [..., n]."""
    parameters = np.asarray(parameters, dtype=np.float64)
    return [parameters[..., i, None] for i in range(parameters.shape[-1])]


@dataclasses.dataclass(frozen=True)
class Law:
    """What every law has; the forms below fill in the functions.

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
        return next((p for p in ("c", "E", "eps") if p in self.linear), None)

    def __call__(self, x: Array, parameters: Array) -> Array:
        """Returns the law's value [..., n]."""
        raise NotImplementedError

    def jacobian(self, x: Array, parameters: Array) -> Array:
        """Returns d value / d parameter, [..., n, p]."""
        raise NotImplementedError

    def basis(self, x: Array, nonlinear: Array) -> Array:
        """Returns [..., n, k]: what each of the `linear` parameters multiplies."""
        raise NotImplementedError

    def grid(self, x: Array) -> Array:
        """Returns nonlinear parameters [m, q] that cover the domain."""
        raise NotImplementedError

    def bounds(self, x: Array) -> tuple[Array, Array]:
        """Returns the search box: lower [p] and upper [p]."""
        raise NotImplementedError

    def rescale(self, parameters: Array, unit: Array | float) -> Array:
        """Turns parameters for x / unit into parameters for x."""
        raise NotImplementedError


class PowerLaw(Law):
    """E = a x^-b (M1 of arXiv 2209.06640)."""

    def __call__(self, x: Array, parameters: Array) -> Array:
        a, b = _columns(parameters)
        return a * x**-b

    def jacobian(self, x: Array, parameters: Array) -> Array:
        a, b = _columns(parameters)
        u = x**-b
        return np.stack(np.broadcast_arrays(u, -a * u * np.log(x)), axis=-1)

    def basis(self, x: Array, nonlinear: Array) -> Array:
        (b,) = _columns(nonlinear)
        return (x**-b)[..., None]

    def grid(self, x: Array) -> Array:
        return np.geomspace(0.003, 4.0, 80)[:, None]

    def bounds(self, x: Array) -> tuple[Array, Array]:
        return np.array([1e-200, 1e-3]), np.array([1e200, 4.0])

    def rescale(self, parameters: Array, unit: Array | float) -> Array:
        out = np.array(parameters, dtype=np.float64)
        out[..., 0] *= unit ** out[..., 1]
        return out


class SaturatingLaw(Law):
    """E = a x^-b + c (M2 of arXiv 2209.06640)."""

    def __call__(self, x: Array, parameters: Array) -> Array:
        a, b, c = _columns(parameters)
        return a * x**-b + c

    def jacobian(self, x: Array, parameters: Array) -> Array:
        a, b, _ = _columns(parameters)
        u = x**-b
        return np.stack(np.broadcast_arrays(u, -a * u * np.log(x), np.ones_like(u)), axis=-1)

    def basis(self, x: Array, nonlinear: Array) -> Array:
        (b,) = _columns(nonlinear)
        u = x**-b
        return np.stack([u, np.ones_like(u)], axis=-1)

    def grid(self, x: Array) -> Array:
        return np.geomspace(0.003, 4.0, 80)[:, None]

    def bounds(self, x: Array) -> tuple[Array, Array]:
        return np.array([1e-200, 1e-3, 0.0]), np.array([1e200, 4.0, np.inf])

    def rescale(self, parameters: Array, unit: Array | float) -> Array:
        out = np.array(parameters, dtype=np.float64)
        out[..., 0] *= unit ** out[..., 1]
        return out


class DoubleSaturatingLaw(Law):
    """E = a (x + d)^-b + c: saturates at both ends (arXiv 2106.04560, section 2.2)."""

    def __call__(self, x: Array, parameters: Array) -> Array:
        a, b, c, d = _columns(parameters)
        return a * (x + d) ** -b + c

    def jacobian(self, x: Array, parameters: Array) -> Array:
        a, b, _, d = _columns(parameters)
        s = x + d
        u = s**-b
        return np.stack([u, -a * u * np.log(s), np.ones_like(u), -a * b * u / s], axis=-1)

    def basis(self, x: Array, nonlinear: Array) -> Array:
        b, d = _columns(nonlinear)
        u = (x + d) ** -b
        return np.stack([u, np.ones_like(u)], axis=-1)

    def grid(self, x: Array) -> Array:
        b = np.geomspace(0.01, 4.0, 36)
        low, high = (bound[3] for bound in self.bounds(x))
        d = np.concatenate([[low], np.geomspace(0.03 * x.min(), high, 20)])
        return np.array(list(itertools.product(b, d)))

    def bounds(self, x: Array) -> tuple[Array, Array]:
        # A shift of 1e-5 of the smallest x changes no value: that lower bound stands for d = 0.
        # A shift beyond the largest x would turn the law into an exponential.
        low = np.array([1e-200, 1e-3, 0.0, 1e-5 * x.min()])
        return low, np.array([1e200, 4.0, np.inf, x.max()])

    def rescale(self, parameters: Array, unit: Array | float) -> Array:
        out = np.array(parameters, dtype=np.float64)
        out[..., 0] *= unit ** out[..., 1]
        out[..., 3] *= unit
        return out


POWER = PowerLaw(
    "power", "E = a x^-b", "M1 of arXiv 2209.06640", ("a", "b"), ("a",), ("a", "b")
)
SATURATING = SaturatingLaw(
    "saturating", "E = a x^-b + c", "M2 of arXiv 2209.06640", ("a", "b", "c"), ("a", "c"),
    ("a", "b"),
)
DOUBLE = DoubleSaturatingLaw(
    "double", "E = a (x + d)^-b + c", "arXiv 2106.04560, section 2.2", ("a", "b", "c", "d"),
    ("a", "c"), ("a", "b", "d"),
)

LAWS: dict[str, Law] = {law.name: law for law in (POWER, SATURATING, DOUBLE)}


def get(name: str) -> Law:
    """Returns the law called `name`.

    Raises:
      DataError: there is no such law.
    """
    if name not in LAWS:
        raise DataError(f"unknown law {name!r}{nearest(name, LAWS)} (laws: {', '.join(LAWS)})")
    return LAWS[name]
