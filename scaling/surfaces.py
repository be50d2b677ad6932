"""Laws of two variables: L(N, D) with its compute-optimal split, and the best model shape.

Command for the shape law:

    python -m scaling.surfaces runs.csv --shape width --x train_flops --y error --at 1e20

prints the law, the best value of the shape dimension at a compute, and how it grows.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence

import numpy as np

from scaling import bootstrap, command, laws, measurements
from scaling.errors import DataError, nearest
from scaling.estimate import Problem
from scaling.lawform import Array, Law
from scaling.leastsquares import Loss
from scaling.points import CONVERSIONS, Points, listing, select
from scaling.words import figure, span


@dataclasses.dataclass(frozen=True)
class Surface:
  """A two-variable law with its bootstrap.

  Attributes:
    law: the form.
    parameters: estimates by name, natural units.
    intervals: 95% percentile intervals by name; none if there is a shortage.
    draws: parameters of the resamples, [r, p].
    shortage: why there are no intervals and what to do, or None.
    residual: RMS residual (log residuals: relative).
  """

  law: Law
  parameters: dict[str, float]
  intervals: dict[str, tuple[float, float]]
  draws: Array
  shortage: str | None
  residual: float

  def __call__(self, x: Array) -> Array:
    """Returns the law's value [n] at x [n, 2]."""
    return self.law(np.asarray(x, np.float64), np.array(list(self.parameters.values())))


def surface(
  law: Law,
  x: Array,
  y: Array,
  *,
  run: Array | None = None,
  loss: Loss | None = None,
  resamples: int = 1000,
  seed: int = 0,
) -> Surface:
  """Fits a law of two variables.

  Args:
    law: `laws.SIZE_DATA` (x is [n, 2]: parameters, tokens or images) or `laws.SHAPE` (x is
      [n, 2]: shape dimension, compute).
    x: scales, [n, 2].
    y: losses or errors, [n].
    run: the training run of each point, [n]; resampling draws whole runs. None: each point its
      own.
    loss: residual and Huber threshold.
    resamples: bootstrap draws; 0: no intervals.
    seed: of the draws.

  Raises:
    DataError: the points cannot be fitted.
  """
  problem = Problem.of(law, x, y, None, loss)
  scaled, losses = problem.solve()
  values = problem.natural(scaled)[0]
  run = np.arange(len(problem.y)) if run is None else np.asarray(run)
  draws = bootstrap.draw(problem, run, None, resamples, seed)
  names, shortage = law.parameters, draws.shortage()
  return Surface(
    law,
    dict(zip(names, values.tolist(), strict=True)),
    {} if shortage else {name: draws.interval(i) for i, name in enumerate(names)},
    draws.parameters,
    shortage,
    float(np.sqrt(losses[0] / max(1, len(problem.y) - len(names)))),
  )


def optimal_split(fitted: Surface, flops: float, per_unit: float = 6.0) -> tuple[float, float]:
  """Returns the N and D that minimise L(N, D) under flops = per_unit N D.

  Args:
    fitted: a fit of `laws.SIZE_DATA`.
    flops: compute.
    per_unit: operations per parameter and unit of data (6 for a token of a language model,
      arXiv 2203.15556, section 3.3, eq. 4).
  """
  p = fitted.parameters
  total = p["alpha"] + p["beta"]
  ratio = (p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / total)
  size = ratio * (flops / per_unit) ** (p["beta"] / total)
  return size, flops / per_unit / size


def best_shape(parameters: Array, t: float) -> Array:
  """Returns the shape dimension [...] that minimises the shape law at compute t.

  arXiv 2305.13035, section 3.3: x* = (alpha a t^c / (beta b))^(1 / (a + b)).

  Args:
    parameters: of `laws.SHAPE`, [..., 7].
    t: compute.
  """
  alpha, a, beta, b, _, c, _ = np.moveaxis(np.asarray(parameters, np.float64), -1, 0)
  with np.errstate(divide="ignore", over="ignore"):
    return (alpha * a * t**c / (beta * b)) ** (1 / (a + b))


def exponent(parameters: Array) -> Array:
  """Returns s in x* ~ t^s, [...]: c / (a + b)."""
  _, a, _, b, _, c, _ = np.moveaxis(np.asarray(parameters, np.float64), -1, 0)
  return c / (a + b)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns the exit status."""
  parser = command.Parser(
    "scaling.surfaces",
    "Fits the shape law and prints the best value of one shape dimension.",
    "  python -m scaling.surfaces runs.csv --shape width --x train_flops --y error --at 1e20",
  )
  parser.add_argument("paths", nargs="+", help="directory of results, CSV or JSON lines")
  parser.add_argument("--shape", required=True, help="column of the shape dimension")
  parser.add_argument("--x", help="column of the compute (default: train_flops)")
  parser.add_argument("--y", help="column of the error (default: test_error)")
  parser.add_argument(
    "--where",
    action="append",
    default=[],
    metavar="COLUMN=VALUE",
    help="use only these rows; may be repeated",
  )
  parser.add_argument(
    "--convert", choices=CONVERSIONS, help="what y is, if not an error as a fraction"
  )
  parser.add_argument("--at", type=float, help="compute to advise for (default: the largest)")
  return command.run(parser, lambda options: print(_advise(options)), argv)


def _advise(options: argparse.Namespace) -> str:
  if options.at is not None and not (np.isfinite(options.at) and options.at > 0):
    raise DataError(f"--at {options.at:g}: the compute must be positive")
  table = measurements.read(options.paths)
  if options.shape not in table.columns():
    near = nearest(options.shape, table.numeric())
    raise DataError(f"no column {options.shape!r}{near} (--shape)")
  points = select(table, x=options.x, y=options.y, where=options.where, convert=options.convert)
  shape = np.array([measurements.number(row.get(options.shape)) or np.nan for row in points.rows])
  good = np.isfinite(shape) & (shape > 0)
  if good.sum() < len(laws.SHAPE.parameters):
    raise DataError(
      f"column {options.shape!r} has {good.sum()} positive numbers: the shape "
      f"law needs {len(laws.SHAPE.parameters)} points (--shape)"
    )
  if len(np.unique(shape[good])) < 3:
    raise DataError(
      f"{options.shape!r} takes {len(np.unique(shape[good]))} values: vary it "
      "over at least 3 to see an optimum"
    )
  x = np.stack([shape, points.x], axis=-1)[good]
  fitted = surface(laws.SHAPE, x, points.y[good], run=_runs(points, shape)[good], resamples=300)
  at = float(points.x.max()) if options.at is None else options.at
  values = np.array(list(fitted.parameters.values()))
  best, grows = float(best_shape(values, at)), float(exponent(values))
  lines = [laws.SHAPE.formula]
  for name, value in fitted.parameters.items():
    interval = "" if fitted.shortage else f"  {span(*fitted.intervals[name])}"
    lines.append(f"  {name:6}{figure(value, 4):>12}{interval}")
  lines.append(
    f"best {options.shape} at {points.names['x']} = {figure(at)}: {figure(best)}"
    f"{_percentiles(fitted, best_shape(fitted.draws, at))}"
  )
  lines.append(
    f"  grows as {points.names['x']}^{figure(grows)}{_percentiles(fitted, exponent(fitted.draws))}"
  )
  if fitted.shortage:
    lines.append(f"  intervals not available: {fitted.shortage}")
  elif not all("run" in row for row in points.rows):
    lines.append(
      "  intervals take every row without a 'run' for a run of its own: name the runs in that "
      "column if they have several rows, or the intervals are too narrow"
    )
  lines += [f"  {note}" for note in points.notes]
  if not good.all():
    places = [place for place, ok in zip(points.place, good, strict=True) if not ok]
    lines.append(f"  {listing(places)}: {options.shape} is not a positive number; left out")
  low, high = shape[good].min(), shape[good].max()
  if not low < best < high:
    lines.append(
      f"  WARNING: outside the measured {options.shape} ({figure(low)} … "
      f"{figure(high)}): the optimum is the grid's edge, not nature's"
    )
  return "\n".join(lines)


def _runs(points: Points, shape: Array) -> Array:
  """Returns the run of each point, [n] of str; a row that names none is its own."""
  names = []
  for i, row in enumerate(points.rows):
    # Two shapes are two runs, even if both are named alike, by their seed say.
    names.append(f"{shape[i]}, {row['run']}" if "run" in row else f"row {i}")
  return np.array(names)


def _percentiles(fitted: Surface, draws: Array) -> str:
  """Returns " (95%: low … high)" of a number of each resample [r], "" if there is a shortage."""
  if fitted.shortage:
    return ""
  # A resample without a term in x^b has its optimum at infinity: no interpolation.
  return f" (95%: {span(*np.nanquantile(draws, [0.025, 0.975], method='nearest'))})"


if __name__ == "__main__":
  sys.exit(main())
