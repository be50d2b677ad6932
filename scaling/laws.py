"""Scaling laws: formula, domain, value, Jacobian and source of each form.

Shapes are those of `scaling.lawform.Law`.
"""

from __future__ import annotations

import itertools

import numpy as np

from scaling.errors import DataError, nearest
from scaling.lawform import Array, Law, columns

_TINY, _HUGE = 1e-200, 1e200  # amplitudes in any unit


class PowerLaw(Law):
  """E = a x^-b (M1 of arXiv 2209.06640)."""

  def __call__(self, x: Array, parameters: Array) -> Array:
    a, b = columns(parameters)
    return a * x**-b

  def jacobian(self, x: Array, parameters: Array) -> Array:
    a, b = columns(parameters)
    u = x**-b
    return np.stack(np.broadcast_arrays(u, -a * u * np.log(x)), axis=-1)

  def basis(self, x: Array, nonlinear: Array) -> Array:
    (b,) = columns(nonlinear)
    return (x**-b)[..., None]

  def grid(self, x: Array) -> Array:
    return np.geomspace(0.003, 4.0, 80)[:, None]

  def bounds(self, x: Array) -> tuple[Array, Array]:
    return np.array([_TINY, 1e-3]), np.array([_HUGE, 4.0])

  def rescale(self, parameters: Array, unit: Array | float) -> Array:
    out = np.array(parameters, dtype=np.float64)
    out[..., 0] *= unit ** out[..., 1]
    return out


class SaturatingLaw(Law):
  """E = a x^-b + c (M2 of arXiv 2209.06640)."""

  def __call__(self, x: Array, parameters: Array) -> Array:
    a, b, c = columns(parameters)
    return a * x**-b + c

  def jacobian(self, x: Array, parameters: Array) -> Array:
    a, b, _ = columns(parameters)
    u = x**-b
    return np.stack(np.broadcast_arrays(u, -a * u * np.log(x), np.ones_like(u)), axis=-1)

  def basis(self, x: Array, nonlinear: Array) -> Array:
    (b,) = columns(nonlinear)
    u = x**-b
    return np.stack([u, np.ones_like(u)], axis=-1)

  def grid(self, x: Array) -> Array:
    return np.geomspace(0.003, 4.0, 80)[:, None]

  def bounds(self, x: Array) -> tuple[Array, Array]:
    return np.array([_TINY, 1e-3, 0.0]), np.array([_HUGE, 4.0, np.inf])

  def rescale(self, parameters: Array, unit: Array | float) -> Array:
    out = np.array(parameters, dtype=np.float64)
    out[..., 0] *= unit ** out[..., 1]
    return out


class DoubleSaturatingLaw(Law):
  """E = a (x + d)^-b + c: saturates at both ends (arXiv 2106.04560, section 2.2)."""

  def __call__(self, x: Array, parameters: Array) -> Array:
    a, b, c, d = columns(parameters)
    return a * (x + d) ** -b + c

  def jacobian(self, x: Array, parameters: Array) -> Array:
    a, b, _, d = columns(parameters)
    s = x + d
    u = s**-b
    return np.stack([u, -a * u * np.log(s), np.ones_like(u), -a * b * u / s], axis=-1)

  def basis(self, x: Array, nonlinear: Array) -> Array:
    b, d = columns(nonlinear)
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
    low = np.array([_TINY, 1e-3, 0.0, 1e-5 * x.min()])
    return low, np.array([_HUGE, 4.0, np.inf, x.max()])

  def rescale(self, parameters: Array, unit: Array | float) -> Array:
    out = np.array(parameters, dtype=np.float64)
    out[..., 0] *= unit ** out[..., 1]
    out[..., 3] *= unit
    return out


class GuessingLaw(Law):
  """(E - c) / (e0 - E)^alpha = beta x^-gamma (M4 of arXiv 2209.06640).

  e0 is the error of guessing, which E approaches at small scale; alpha -> 0 is the saturating
  law. The paper writes the exponent with the opposite sign.
  """

  def __call__(self, x: Array, parameters: Array) -> Array:
    beta, gamma, alpha, c, e0 = columns(parameters)
    span = np.maximum(e0 - c, 1e-300)
    target = np.log(beta) - gamma * np.log(x) - (1 - alpha) * np.log(span)
    return c + span / (1 + np.exp(-np.clip(_logit(target, alpha), -700, 700)))

  def jacobian(self, x: Array, parameters: Array) -> Array:
    return self.linearise(x, parameters)[1]

  def linearise(self, x: Array, parameters: Array) -> tuple[Array, Array]:
    beta, _, alpha, c, e0 = columns(parameters)
    value = self(x, parameters)
    above = np.maximum(value - c, 1e-300)
    below = np.maximum(e0 - value, 1e-300)
    slope = 1 / (1 / above + alpha / below)  # dE / d(log beta x^-gamma)
    parts = [
      slope / beta,
      -slope * np.log(x),
      slope * np.log(below),
      slope / above,
      slope * alpha / below,
    ]
    return value, np.stack(np.broadcast_arrays(*parts), axis=-1)

  def bounds(self, x: Array) -> tuple[Array, Array]:
    low = np.array([_TINY, 1e-3, 1e-3, 0.0, 1e-9])
    return low, np.array([_HUGE, 4.0, 20.0, np.inf, 1e9])

  def starts(self, x: Array, y: Array) -> Array:
    """For given c and e0 the law is a linear regression on log x and log(e0 - y)."""
    floors = y.min() * np.array([0.0, 0.3, 0.6, 0.8, 0.9, 0.97])
    guesses = y.max() * np.array([1.003, 1.03, 1.2, 2.0])
    rows = []
    for c, e0 in itertools.product(floors, guesses):
      design = np.stack([np.ones_like(x), -np.log(x), np.log(e0 - y)], axis=1)
      solution = np.linalg.lstsq(design, np.log(y - c), rcond=None)[0]
      alpha, gamma = np.clip(solution[2], 0.01, 10), np.clip(solution[1], 0.01, 3)
      offset = np.mean(np.log(y - c) - alpha * np.log(e0 - y) + gamma * np.log(x))
      rows.append([np.exp(offset), gamma, alpha, c, e0])
    return np.array(rows)

  def rescale(self, parameters: Array, unit: Array | float) -> Array:
    out = np.array(parameters, dtype=np.float64)
    out[..., 0] *= unit ** out[..., 1]
    return out


def _logit(target: Array, alpha: Array) -> Array:
  """Solves log sigmoid(z) - alpha log sigmoid(-z) = target, to which M4 reduces for
  E = c + (e0 - c) sigmoid(z).

  The left side rises with a slope between 1 and alpha; Newton steps, entry by entry until each
  stands still.
  """
  shape = np.broadcast_shapes(target.shape, alpha.shape)
  goal, a = (np.broadcast_to(v, shape).ravel() for v in (target, alpha))
  out = np.where(goal < 0, goal, goal / a)
  left = np.flatnonzero(np.isfinite(out))
  for _ in range(60):
    z, rate = out[left], a[left]
    tail = np.log1p(np.exp(-np.abs(z)))
    above, below = np.maximum(z, 0) + tail, np.maximum(-z, 0) + tail
    share = np.exp(-below)
    move = (rate * above - below - goal[left]) / (1 - share + rate * share)
    out[left] = z - np.clip(move, -4, 4)
    left = left[np.abs(move) > 1e-12 * (1 + np.abs(z))]
    if len(left) == 0:
      break
  return out.reshape(shape)


class BrokenLaw(Law):
  """E = c + a x^-b prod_i (1 + (x / d_i)^(1 / f_i))^(-b_i f_i) (arXiv 2210.14891, eq. 1).

  b is the exponent before the first break, b + b_1 after it; f_i is the width of break i in
  units of log x.
  """

  def _breaks(self, parameters: Array) -> list[list[Array]]:
    parts = columns(parameters)
    return [parts[i : i + 3] for i in range(3, len(parts), 3)]

  def _power(self, x: Array, b: Array, breaks: list[list[Array]]) -> Array:
    log = -b * np.log(x)
    for change, d, f in breaks:
      log = log - change * f * np.logaddexp(0, (np.log(x) - np.log(d)) / f)
    return np.exp(log)

  def __call__(self, x: Array, parameters: Array) -> Array:
    a, b, c, *_ = columns(parameters)
    return c + a * self._power(x, b, self._breaks(parameters))

  def jacobian(self, x: Array, parameters: Array) -> Array:
    a, b, _, *_ = columns(parameters)
    breaks = self._breaks(parameters)
    u = self._power(x, b, breaks)
    parts = [u, -a * u * np.log(x), np.ones_like(u)]
    for change, d, f in breaks:
      z = (np.log(x) - np.log(d)) / f
      soft = np.logaddexp(0, z)
      share = np.exp(z - soft)
      parts += [-a * u * f * soft, a * u * change * share / d, a * u * change * (share * z - soft)]
    return np.stack(np.broadcast_arrays(*parts), axis=-1)

  def basis(self, x: Array, nonlinear: Array) -> Array:
    parts = columns(nonlinear)
    u = self._power(x, parts[0], [parts[i : i + 3] for i in range(1, len(parts), 3)])
    return np.stack([u, np.ones_like(u)], axis=-1)

  def grid(self, x: Array) -> Array:
    count = (len(self.parameters) - 3) // 3
    fine = count == 1
    b = np.array([0.003, 0.03, 0.1, 0.2, 0.35, 0.6, 1.0] if fine else [0.003, 0.1, 0.3, 0.8])
    change = np.array([-0.8, -0.3, -0.1, 0.1, 0.3, 0.8] if fine else [-0.4, 0.15, 0.6])
    width = np.array([0.1, 0.4, 1.2] if fine else [0.15, 0.8])
    low, high = np.log(x.min()), np.log(x.max())
    where = np.exp(low + (high - low) * np.linspace(0.05, 1.1, 9 if fine else 6))
    nodes = []
    for places in itertools.combinations(where, count):
      for first, *rest in itertools.product(b, *[change, width] * count):
        node = [first]
        for i, place in enumerate(places):
          node += [rest[2 * i], place, rest[2 * i + 1]]
        nodes.append(node)
    return np.array(nodes)

  def bounds(self, x: Array) -> tuple[Array, Array]:
    count = (len(self.parameters) - 3) // 3
    low = [_TINY, 1e-3, 0.0] + [-4.0, 0.1 * x.min(), 0.05] * count
    high = [_HUGE, 4.0, np.inf] + [4.0, 10 * x.max(), 3.0] * count
    return np.array(low), np.array(high)

  def rescale(self, parameters: Array, unit: Array | float) -> Array:
    out = np.array(parameters, dtype=np.float64)
    out[..., 0] *= unit ** out[..., 1]
    out[..., 4::3] *= unit
    return out


class SizeDataLaw(Law):
  """L(N, D) = E + A / N^alpha + B / D^beta (arXiv 2203.15556, section 3.3)."""

  def __call__(self, x: Array, parameters: Array) -> Array:
    e, a, b, alpha, beta = columns(parameters)
    return e + a * x[..., 0] ** -alpha + b * x[..., 1] ** -beta

  def jacobian(self, x: Array, parameters: Array) -> Array:
    _, a, b, alpha, beta = columns(parameters)
    size, data = x[..., 0], x[..., 1]
    u, v = size**-alpha, data**-beta
    parts = [np.ones_like(u), u, v, -a * u * np.log(size), -b * v * np.log(data)]
    return np.stack(np.broadcast_arrays(*parts), axis=-1)

  def basis(self, x: Array, nonlinear: Array) -> Array:
    alpha, beta = columns(nonlinear)
    u, v = x[..., 0] ** -alpha, x[..., 1] ** -beta
    return np.stack([np.ones_like(u), u, v], axis=-1)

  def grid(self, x: Array) -> Array:
    exponents = np.geomspace(0.02, 2.0, 22)
    return np.array(list(itertools.product(exponents, exponents)))

  def bounds(self, x: Array) -> tuple[Array, Array]:
    low = np.array([0.0, _TINY, _TINY, 1e-3, 1e-3])
    return low, np.array([np.inf, _HUGE, _HUGE, 3.0, 3.0])

  def rescale(self, parameters: Array, unit: Array | float) -> Array:
    out = np.array(parameters, dtype=np.float64)
    out[..., 1] *= unit[0] ** out[..., 3]
    out[..., 2] *= unit[1] ** out[..., 4]
    return out


class ShapeLaw(Law):
  """f(x, t) = alpha x^-a + (beta x^b + xi) t^-c + eps (arXiv 2305.13035, section 3.2).

  x is one dimension of the model's shape (width, depth or MLP width), t the compute. A larger
  x lowers the first term and, at a given compute, raises the second.
  """

  def __call__(self, x: Array, parameters: Array) -> Array:
    alpha, a, beta, b, xi, c, eps = columns(parameters)
    shape, t = x[..., 0], x[..., 1]
    return alpha * shape**-a + (beta * shape**b + xi) * t**-c + eps

  def jacobian(self, x: Array, parameters: Array) -> Array:
    alpha, a, beta, b, xi, c, _ = columns(parameters)
    shape, t = x[..., 0], x[..., 1]
    u, v, w = shape**-a, shape**b, t**-c
    parts = [
      u,
      -alpha * u * np.log(shape),
      v * w,
      beta * v * w * np.log(shape),
      w,
      -(beta * v + xi) * w * np.log(t),
      np.ones_like(u),
    ]
    return np.stack(np.broadcast_arrays(*parts), axis=-1)

  def basis(self, x: Array, nonlinear: Array) -> Array:
    a, b, c = columns(nonlinear)
    shape, t = x[..., 0], x[..., 1]
    w = t**-c
    u, v = shape**-a, shape**b * w
    return np.stack(np.broadcast_arrays(u, v, w, np.ones_like(u)), axis=-1)

  def grid(self, x: Array) -> Array:
    exponents = np.geomspace(0.08, 2.5, 9)
    return np.array(list(itertools.product(exponents, repeat=3)))

  def bounds(self, x: Array) -> tuple[Array, Array]:
    low = np.array([0.0, 0.01, 0.0, 0.01, 0.0, 0.01, 0.0])
    return low, np.array([np.inf, 4.0, np.inf, 4.0, np.inf, 4.0, np.inf])

  def rescale(self, parameters: Array, unit: Array | float) -> Array:
    out = np.array(parameters, dtype=np.float64)
    alpha, a, beta, b, xi, c, _ = np.moveaxis(out, -1, 0)
    out[..., 0] = alpha * unit[0] ** a
    out[..., 2] = beta * unit[0] ** -b * unit[1] ** c
    out[..., 4] = xi * unit[1] ** c
    return out


POWER = PowerLaw("power", "E = a x^-b", "M1 of arXiv 2209.06640", ("a", "b"), ("a",), ("a", "b"))
SATURATING = SaturatingLaw(
  "saturating",
  "E = a x^-b + c",
  "M2 of arXiv 2209.06640",
  ("a", "b", "c"),
  ("a", "c"),
  ("a", "b"),
)
DOUBLE = DoubleSaturatingLaw(
  "double",
  "E = a (x + d)^-b + c",
  "arXiv 2106.04560, section 2.2",
  ("a", "b", "c", "d"),
  ("a", "c"),
  ("a", "b", "d"),
)


def _broken(count: int) -> BrokenLaw:
  breaks = [f"{name}{i + 1}" for i in range(count) for name in ("b", "d", "f")]
  factors = " ".join(f"(1 + (x / d{i})^(1 / f{i}))^(-b{i} f{i})" for i in range(1, count + 1))
  return BrokenLaw(
    f"broken{count}",
    f"E = a x^-b {factors} + c",
    "arXiv 2210.14891, eq. 1",
    ("a", "b", "c", *breaks),
    ("a", "c"),
    ("a", "b", *(name for name in breaks if name[0] != "b")),
  )


BROKEN_1, BROKEN_2 = _broken(1), _broken(2)
GUESSING = GuessingLaw(
  "guessing",
  "(E - c) / (e0 - E)^alpha = beta x^-gamma",
  "M4 of arXiv 2209.06640",
  ("beta", "gamma", "alpha", "c", "e0"),
  (),
  ("beta", "gamma", "alpha", "e0"),
  domain="x > 0, c < E < e0",
)
SIZE_DATA = SizeDataLaw(
  "size-data",
  "L = E + A / N^alpha + B / D^beta",
  "arXiv 2203.15556, section 3.3",
  ("E", "A", "B", "alpha", "beta"),
  ("E", "A", "B"),
  ("A", "B", "alpha", "beta"),
  2,
  "N > 0, D > 0",
)
SHAPE = ShapeLaw(
  "shape",
  "f = alpha x^-a + (beta x^b + xi) t^-c + eps",
  "arXiv 2305.13035, section 3.2",
  ("alpha", "a", "beta", "b", "xi", "c", "eps"),
  ("alpha", "beta", "xi", "eps"),
  ("a", "b", "c"),
  2,
  "x > 0, t > 0",
)

LAWS: dict[str, Law] = {
  law.name: law
  for law in (POWER, SATURATING, DOUBLE, GUESSING, BROKEN_1, BROKEN_2, SIZE_DATA, SHAPE)
}


def get(name: str) -> Law:
  """Returns the law called `name`.

  Raises:
    DataError: there is no such law.
  """
  if name not in LAWS:
    raise DataError(f"unknown law {name!r}{nearest(name, LAWS)} (laws: {', '.join(LAWS)})")
  return LAWS[name]
