"""A fitted law: its numbers, its predictions and law.json."""

from __future__ import annotations

import dataclasses
import json
import math
from importlib import metadata
from pathlib import Path

import numpy as np

from scaling import laws, profiles
from scaling.lawform import Array, Law
from scaling.leastsquares import Loss
from scaling.measurements import is_finite, number
from scaling.points import Points
from scaling.solution import Solution
from scaling.words import figure

SCHEMA = 1
ALLOCATION = ("parameters", "images_seen")  # columns that say how compute was spent


@dataclasses.dataclass(frozen=True)
class Estimate:
  """One parameter with its 95% interval.

  Attributes:
    value: the estimate, for x as given.
    profile: profile likelihood on the frontier.
    interior: likewise without the frontier's edges, or None where it has none.
    bootstrap: percentile interval over runs, or None.
  """

  value: float
  profile: profiles.Profile
  interior: profiles.Profile | None = None
  bootstrap: tuple[float, float] | None = None

  @property
  def open_low(self) -> bool:
    """The data set no lower end."""
    return any(p.open_low for p in self._profiles)

  @property
  def open_high(self) -> bool:
    """The data set no upper end."""
    return any(p.open_high for p in self._profiles)

  @property
  def interval(self) -> tuple[float, float]:
    """The 95% interval, with and without the edges; infinite where the data set no end.

    A parameter that cannot be negative ends at 0.
    """
    low = min(p.low for p in self._profiles)
    if self.open_low:
      low = -math.inf if low < 0 else 0.0
    return low, math.inf if self.open_high else max(p.high for p in self._profiles)

  @property
  def identified(self) -> bool:
    """Whether the data bound the parameter on both sides."""
    return not (self.open_low or self.open_high)

  @property
  def _profiles(self) -> list[profiles.Profile]:
    return [p for p in (self.profile, self.interior) if p is not None]


@dataclasses.dataclass(frozen=True)
class Fit:
  """What `scaling.fit.law` returns.

  Attributes:
    law: the form.
    points: all measurements.
    frontier: indices into them of the points that were fitted, in order of x.
    solution: the law fitted to the frontier.
    interior: the law fitted without the frontier's edges, or None where it has none.
    estimates: the parameters by name, for x as given.
    left_out_error: RMS log error on the largest scales when they are left out, or None.
    left_out: number of points left out for that.
    notes: sentences about the data and the fit that a reader must know.
    variant: which points were fitted, a name of `scaling.frontier.VARIANTS`.
    emphasis: points weigh as x to this.
  """

  law: Law
  points: Points
  frontier: Array
  solution: Solution
  interior: Solution | None
  estimates: dict[str, Estimate]
  left_out_error: float | None
  left_out: int
  notes: list[str]
  variant: str = "envelope"
  emphasis: float = 0.0

  @property
  def parameters(self) -> dict[str, float]:
    """The estimates by name."""
    return {name: estimate.value for name, estimate in self.estimates.items()}

  def __call__(self, x: Array) -> Array:
    """Returns the law's value at x [...]."""
    return self.solution(x)

  @property
  def scatter(self) -> profiles.Noise:
    """The scatter of the fitted points about the law."""
    return self.solution.scatter

  @property
  def loss(self) -> Loss:
    """How the misfit was measured."""
    return self.solution.problem.loss

  def interval(self, x: Array, *, measurement: bool = False) -> tuple[Array, Array]:
    """Returns 95% intervals [k] at x [k]: of the law, or of a new measurement there."""
    low, high = self.solution.interval(x, measurement=measurement)
    if self.interior is None:
      return low, high
    other = self.interior.interval(x, measurement=measurement)
    return np.minimum(low, other[0]), np.maximum(high, other[1])

  def findings(self) -> list[str]:
    """Says in words what the data cannot tell apart, one sentence each."""
    if self.scatter.degrees <= 0:
      return [
        f"{len(self.frontier)} points for {len(self.law.parameters)} parameters leave no "
        "scatter to judge by: no intervals"
      ]
    sentences = []
    for name, estimate in self.estimates.items():
      low, high = estimate.interval
      if estimate.open_low and estimate.open_high:
        sentences.append(f"{name} is not identified: the data take any value")
      elif estimate.open_low:
        what = {
          self.law.floor: "the data do not show a floor",
          "d": "the data do not reach the bend at small scale",
        }.get(name, "the data set no lower end")
        start = "from 0 up to" if low == 0 else "below"
        sentences.append(
          f"{name} is not identified: {what}; anything {start} {figure(high)} fits as well"
        )
      elif estimate.open_high:
        sentences.append(f"{name} is not identified: anything above {figure(low)} fits as well")
    return sentences

  def to_dict(self) -> dict[str, object]:
    """Returns what law.json holds; ends that the data leave open are null."""
    return {
      "schema": SCHEMA,
      "law": self.law.name,
      "formula": self.law.formula,
      "source": self.law.source,
      "columns": self.points.names,
      "parameters": self.parameters,
      "intervals": {k: _finite(e.interval) for k, e in self.estimates.items()},
      "bootstrap_intervals": {
        k: e.bootstrap and list(e.bootstrap) for k, e in self.estimates.items()
      },
      "identified": {k: e.identified for k, e in self.estimates.items()},
      "profiles": {k: _profile(e.profile) for k, e in self.estimates.items()},
      "level": 0.95,
      "residual": self.loss.residual,
      "huber": self.loss.huber,
      "emphasis": self.emphasis,
      "noise": math.sqrt(self.scatter.variance),
      "degrees_of_freedom": self.scatter.degrees,
      "left_out_error": self.left_out_error,
      "left_out_points": self.left_out,
      "range": [float(self.points.x.min()), float(self.points.x.max())],
      "notes": self.notes + self.findings(),
      "frontier": self.variant,
      "data": self._data(),
      "software": {"vit-scaling": _version("vit-scaling"), "numpy": np.__version__},
    }

  def _data(self) -> list[dict[str, object]]:
    fitted = set(self.frontier.tolist())
    points = self.points
    rows = []
    for i in range(len(points)):
      row = {
        "x": float(points.x[i]),
        "y": float(points.y[i]),
        "group": str(points.group[i]),
        "run": str(points.run[i]),
        "place": points.place[i],
        "fitted": i in fitted,
      }
      given = points.rows[i] if points.rows else {}
      row |= {k: number(given[k]) for k in ALLOCATION if is_finite(given.get(k))}
      rows.append(row)
    return rows

  def save(self, path: str | Path, extra: dict[str, object] | None = None) -> None:
    """Writes law.json; `extra` adds entries."""
    text = json.dumps(self.to_dict() | (extra or {}), indent=1, allow_nan=False)
    Path(path).write_text(text + "\n", encoding="utf-8")


def _finite(interval: tuple[float, float]) -> list[float | None]:
  return [end if math.isfinite(end) else None for end in interval]


def _profile(profile: profiles.Profile) -> dict[str, object]:
  """Values and excess misfit; the interval holds the values whose excess is below the limit."""
  return {
    "values": profile.values.tolist(),
    "excess": profile.excess.tolist(),
    "limit": profile.limit if math.isfinite(profile.limit) else None,
  }


def _version(package: str) -> str:
  try:
    return metadata.version(package)
  except metadata.PackageNotFoundError:
    return "not installed"


def names() -> list[str]:
  """Returns the names of the laws of one variable."""
  return [name for name, law in laws.LAWS.items() if law.variables == 1]
