"""Fits a scaling law to measurements: the public interface and the command.

    python -m scaling.fit results/
    python -m scaling.fit runs.csv --x gpu_hours --y error --group model

In a notebook:

    >>> import numpy as np
    >>> from scaling import fit, laws
    >>> x = np.geomspace(1e15, 1e20, 15)
    >>> noise = np.random.default_rng(0).normal(scale=0.01, size=15)
    >>> y = laws.DOUBLE(x, np.array([4e4, 0.3, 0.1, 1e15])) * np.exp(noise)
    >>> result = fit.law(x, y)
    >>> low, high = result.estimates["c"].interval
    >>> bool(low < 0.1 < high)
    True
    >>> bool(abs(result(1e21) - 0.12) < 0.01)
    True

`print(scaling.summary.text(result))` shows all of it in words, `scaling.plot.law(result)` as a
figure.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scaling import bootstrap, command, frontier, laws, measurements, summary
from scaling.errors import DataError
from scaling.estimate import Problem
from scaling.lawform import Array, Law
from scaling.leastsquares import RESIDUALS, Loss
from scaling.points import CONVERSIONS, Points, listing, select
from scaling.result import Estimate, Fit, names
from scaling.solution import Solution

_STEEPEST = 5.0  # beyond this a few points would hold all the weight
_EXAMPLES = """\
  python -m scaling.fit results/
  python -m scaling.fit results/ --report --out analysis
  python -m scaling.fit runs.csv --x gpu_hours --y top1 --convert percent-accuracy --group model
  python -m scaling.fit runs.csv --x steps --y loss --where model=B/16 --frontier all
"""


def law(
  x: Array,
  y: Array,
  *,
  form: str = "double",
  group: Array | None = None,
  run: Array | None = None,
  frontier: str = "envelope",
  residual: str = "log",
  huber: float | None = None,
  emphasis: float = 0.0,
  resamples: int = 0,
) -> Fit:
  """Fits a law to arrays.

  Args:
    x: scales (compute, images, steps), [n], positive.
    y: errors as fractions, or losses, [n].
    form: a name of `scaling.laws.LAWS`.
    group: the model of each point, [n]; None: one model.
    run: the training run of each point, [n]; None: as `group`, or each point its own.
    frontier: which points to fit: "envelope" (those that nothing cheaper matches), "hull",
      "binned" or "all"; see `scaling.frontier`.
    residual: "log", "linear" or "binomial"; see `scaling.leastsquares.Loss`.
    huber: residuals beyond this count linearly; None: squares.
    emphasis: points weigh as x to this, so that above 0 the large scales decide.
    resamples: bootstrap draws; 0: none.

  Raises:
    DataError: the points cannot be fitted; the message says why.
  """
  x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
  lengths = [len(v) for v in (x, y, group, run) if v is not None]
  if len(set(lengths)) > 1:
    raise DataError(f"x, y, group and run differ in length: {', '.join(map(str, lengths))}")
  single = np.arange(len(x)).astype(str)
  points = Points(
    x,
    y,
    np.full(len(x), "model") if group is None else np.asarray(group).astype(str),
    (single if group is None else np.asarray(group).astype(str))
    if run is None
    else np.asarray(run).astype(str),
    [f"point {i}" for i in range(len(x))],
    {"x": "x", "y": "y", "group": "group"},
    [],
    [],
  )
  return of_points(
    points,
    form=form,
    variant=frontier,
    loss=Loss(residual, huber),
    emphasis=emphasis,
    resamples=resamples,
  )


def of_points(
  points: Points,
  *,
  form: str = "double",
  variant: str = "envelope",
  loss: Loss | None = None,
  emphasis: float = 0.0,
  resamples: int = 0,
) -> Fit:
  """Fits a law to the frontier of points; see `law`."""
  chosen = laws.get(form)
  loss = loss or Loss()
  _check(points, chosen, loss, emphasis, resamples)
  weights = (points.x / points.x.max()) ** emphasis
  kept = frontier.select(points.x, points.y, variant)
  reached, least = len(np.unique(points.x[kept])), len(chosen.parameters)
  if reached < least <= len(np.unique(points.x)):
    raise DataError(
      f"the frontier ({variant}) has {reached} of {len(points)} points, {chosen.formula} "
      f"needs {least}: does {points.names['y']} fall as {points.names['x']} grows? else try "
      "--frontier all or a smaller law"
    )
  _check_fractions(points, kept, loss)
  solution = Solution.of(chosen, points.x[kept], points.y[kept], weights[kept], loss)
  core = frontier.interior(kept, points.group, len(chosen.parameters) + 1)
  interior = None
  if variant != "all" and len(core) < len(kept):
    interior = Solution.of(chosen, points.x[core], points.y[core], weights[core], loss)
  draws = _bootstrap(points, weights, chosen, loss, variant, resamples)
  estimates = {
    name: Estimate(
      float(solution.natural[i]),
      solution.profile(name),
      interior.profile(name) if interior else None,
      draws.interval(i) if draws and len(draws.parameters) else None,
    )
    for i, name in enumerate(chosen.parameters)
  }
  notes = list(points.notes)
  notes.append(summary.used(points, kept, variant))
  if interior:
    notes.append(summary.edges(points, kept, core))
  notes += [end for end in [summary.ending(points, kept)] if end and variant != "all"]
  if draws and draws.runs < bootstrap.FEW_RUNS:
    notes.append(
      f"the bootstrap had only {draws.runs} runs to draw from: trust the profile intervals"
    )
  error, left = _left_out(solution.problem)
  return Fit(
    chosen, points, kept, solution, interior, estimates, error, left, notes, variant, emphasis
  )


def _check(points: Points, chosen: Law, loss: Loss, emphasis: float, resamples: int) -> None:
  """Raises a DataError for what no fit can use, naming the points."""
  if chosen.variables != 1:
    raise DataError(f"{chosen.name} is a law of two variables: see scaling.surfaces")
  if not abs(emphasis) <= _STEEPEST:
    raise DataError(f"emphasis {emphasis:g}: must lie within -{_STEEPEST:g} … {_STEEPEST:g}")
  if resamples < 0:
    raise DataError(f"bootstrap {resamples}: the number of resamples cannot be negative")
  if len(points) == 0:
    raise DataError("no points to fit")
  if not (np.isfinite(points.x).all() and np.isfinite(points.y).all()):
    raise DataError("x and y must be finite numbers")
  if (points.x <= 0).any():
    raise DataError("x must be positive")
  zero = np.flatnonzero(points.y <= 0)
  if loss.residual == "log" and len(zero):
    raise DataError(
      f"{listing([points.place[i] for i in zero])}: {points.names['y']} is not positive, log "
      "residuals need that: drop those rows or use linear residuals (--residual linear)"
    )


def _fractions(y: Array, loss: Loss) -> Array:
  """Tells which errors y [n] binomial residuals can take, bool [n]; other residuals: all."""
  return (y > 0) & (y < 1) if loss.residual == "binomial" else np.full(len(y), True)


def _check_fractions(points: Points, kept: Array, loss: Loss) -> None:
  """Raises a DataError that names the points to fit which binomial residuals cannot take."""
  bad = kept[~_fractions(points.y[kept], loss)]
  if len(bad):
    raise DataError(
      f"{listing([points.place[i] for i in bad])}: {points.names['y']} is not between 0 and 1, "
      "binomial residuals need that: drop those rows, or use log residuals (--residual log) for "
      "losses"
    )


def _bootstrap(
  points: Points, weights: Array, chosen: Law, loss: Loss, variant: str, resamples: int
) -> bootstrap.Draws | None:
  if not resamples:
    return None
  usable = _fractions(points.y, loss)  # all on the frontier are: see _check_fractions
  x, y = points.x[usable], points.y[usable]
  problem = Problem.of(chosen, x, y, weights[usable], loss)
  return bootstrap.draw(
    problem,
    points.run[usable],
    lambda present: frontier.members(x, y, present, variant),
    resamples,
  )


def _left_out(problem: Problem) -> tuple[float | None, int]:
  """Fits without the quarter of the points at the largest scales and predicts them."""
  order = np.argsort(problem.x, kind="stable")
  count = max(1, len(order) // 4)
  kept, left = order[:-count], order[-count:]
  try:
    part = Problem.of(
      problem.law, problem.x[kept], problem.y[kept], problem.weights[kept], problem.loss
    )
  except DataError:
    return None, count
  parameters, _ = part.solve()
  value = problem.law(problem.x[left] / part.unit, parameters[0])
  if (problem.y[left] <= 0).any():  # an error of exactly 0 has no relative error
    return None, count
  return float(np.sqrt(np.mean(np.log(value / problem.y[left]) ** 2))), count


def next_scale(points: Points, kept: Array) -> float:
  """Returns the scale of the next size up: one more of the last step between sizes.

  Each model leaves the frontier at some scale; the ratio between the last two of these ends,
  applied to the last. With one model on the frontier: twice the largest scale. Never a scale
  that some point, on the frontier or not, has reached already: then twice the largest of all.
  """
  ends: dict[str, float] = {}
  for index in kept:
    name = str(points.group[index])
    ends[name] = max(ends.get(name, 0.0), float(points.x[index]))
  last = sorted(ends.values())
  ratio = last[-1] / last[-2] if len(last) > 1 else 2.0
  scale, largest = last[-1] * max(ratio, 1.1), float(points.x.max())
  return scale if scale > largest else 2 * largest


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns the exit status."""
  return command.run(_parser(), _run, argv)


def _parser() -> command.Parser:
  parser = command.Parser(
    "scaling.fit",
    "Fits a scaling law with 95% intervals; writes law.json and law.png.",
    _EXAMPLES,
  )
  parser.add_argument("paths", nargs="+", help="directory of results, CSV or JSON lines")
  parser.add_argument("--x", help="column of the scale (default: train_flops)")
  parser.add_argument("--y", help="column of the error (default: test_error)")
  parser.add_argument("--group", help="column that names the model (default: model)")
  parser.add_argument(
    "--where",
    action="append",
    default=[],
    metavar="COLUMN=VALUE",
    help="use only these rows; may be repeated",
  )
  parser.add_argument(
    "--convert",
    choices=CONVERSIONS,
    help="what y is, if not an error as a fraction",
  )
  parser.add_argument("--law", default="double", choices=names(), help="default: double")
  parser.add_argument(
    "--frontier",
    default="envelope",
    choices=list(frontier.VARIANTS),
    help="points to fit: envelope, those that nothing cheaper matches "
    "(default); hull, its convex corners; binned, the best per bin of x; all",
  )
  parser.add_argument(
    "--residual",
    default="log",
    choices=RESIDUALS,
    help="log: relative errors count, also at small scales (default); linear: "
    "absolute ones; binomial: as of errors counted on a test set. Constants "
    "that the data hold loosely move with this choice: the published ImageNet "
    "constants of arXiv 2106.04560 come back within 2%% from binomial "
    "residuals (10-shot, d too) and from log residuals (fine-tune), while "
    "log residuals put d of 10-shot 8%% lower",
  )
  parser.add_argument("--huber", type=float, metavar="R", help="residuals beyond R count linearly")
  parser.add_argument(
    "--emphasis",
    type=float,
    default=0.0,
    metavar="G",
    help="points weigh as x^G: above 0 the large scales decide",
  )
  parser.add_argument(
    "--bootstrap",
    type=int,
    default=1000,
    metavar="N",
    help="resamples of the runs (default: 1000; 0: none)",
  )
  parser.add_argument(
    "--forecast", type=float, metavar="X", help="scale to predict (default: the next size up)"
  )
  parser.add_argument(
    "--truth",
    action="append",
    default=[],
    metavar="NAME=VALUE",
    help="a parameter's known value, to compare with; may be repeated",
  )
  parser.add_argument(
    "--report", action="store_true", help="also write law.pdf and report.html, self-contained"
  )
  parser.add_argument(
    "--out", type=Path, help="where to write (default: the directory given, or here)"
  )
  return parser


def _run(options: argparse.Namespace) -> None:
  points = select(
    measurements.read(options.paths),
    x=options.x,
    y=options.y,
    group=options.group,
    where=options.where,
    convert=options.convert,
  )
  points = dataclasses.replace(points, notes=[*points.notes, *summary.groups(points)])
  fit = of_points(
    points,
    form=options.law,
    variant=options.frontier,
    loss=Loss(options.residual, options.huber),
    emphasis=options.emphasis,
    resamples=options.bootstrap,
  )
  truth = _truth(options.truth, fit)
  at = next_scale(points, fit.frontier) if options.forecast is None else options.forecast
  forecast = _forecast(fit, at)
  first = Path(options.paths[0])
  out = options.out or (first if first.is_dir() else Path())
  try:
    written = _write(fit, out, truth, forecast, options.report)
  except OSError as error:
    raise DataError(f"--out {out}: cannot write there ({error.strerror})") from error
  finally:  # after writing: a reader of the output that stops early (| head) costs no file
    print(summary.text(fit, truth, forecast))
  print(f"\nwrote {', '.join(str(out / name) for name in written)}")


def _write(
  fit: Fit, out: Path, truth: dict[str, float], forecast: dict[str, object], full: bool
) -> list[str]:
  out.mkdir(parents=True, exist_ok=True)
  fit.save(out / "law.json", {"forecast": forecast, "truth": truth})
  from scaling import plot  # matplotlib takes a second to import

  plot.law(fit, out / "law.png", truth=truth, forecast=forecast)
  written = ["law.json", "law.png"]
  if full:
    from scaling import report

    plot.law(fit, out / "law.pdf", truth=truth, forecast=forecast)
    report.write(fit, out / "report.html", truth=truth, forecast=forecast)
    written += ["law.pdf", "report.html"]
  return written


def _truth(given: Sequence[str], fit: Fit) -> dict[str, float]:
  truth = {}
  for item in given:
    name, _, value = item.partition("=")
    if name not in fit.estimates or not measurements.is_finite(value):
      raise DataError(f"--truth {item}: write NAME=VALUE, one of {', '.join(fit.estimates)}")
    truth[name] = float(value)
  return truth


def _forecast(fit: Fit, at: float) -> dict[str, object]:
  if not (np.isfinite(at) and at > 0):
    raise DataError(f"--forecast {at:g}: the scale must be positive")

  def ends(measurement: bool) -> list[float | None]:
    both = fit.interval(np.array([at]), measurement=measurement)
    return [float(end[0]) if np.isfinite(end[0]) else None for end in both]

  return {
    "x": at,
    "y": float(fit(at)),
    "measurement_interval": ends(True),
    "law_interval": ends(False),
    "times_beyond_data": at / float(fit.points.x.max()),
  }


if __name__ == "__main__":
  sys.exit(main())
