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
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scaling import bootstrap, frontier, laws, measurements, summary
from scaling.errors import DataError
from scaling.estimate import Problem
from scaling.lawform import Array, Law
from scaling.leastsquares import RESIDUALS, Loss
from scaling.points import Points, select
from scaling.result import Estimate, Fit, names
from scaling.solution import Solution


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
      residual: "log" or "linear".
      huber: residuals beyond this count linearly; None: squares.
      emphasis: points weigh as x to this, so that above 0 the large scales decide.
      resamples: bootstrap draws; 0: none.

    Raises:
      DataError: the points cannot be fitted; the message says why.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    single = np.arange(len(x)).astype(str)
    points = Points(
        x, y,
        np.full(len(x), "model") if group is None else np.asarray(group).astype(str),
        (single if group is None else np.asarray(group).astype(str))
        if run is None else np.asarray(run).astype(str),
        [f"point {i}" for i in range(len(x))],
        {"x": "x", "y": "y", "group": "group"}, [], [],
    )
    return of_points(
        points, form=form, variant=frontier, loss=Loss(residual, huber), emphasis=emphasis,
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
    weights = (points.x / points.x.max()) ** emphasis
    kept = frontier.select(points.x, points.y, variant)
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


def _bootstrap(
    points: Points, weights: Array, chosen: Law, loss: Loss, variant: str, resamples: int
) -> bootstrap.Draws | None:
    if not resamples:
        return None
    problem = Problem.of(chosen, points.x, points.y, weights, loss)
    return bootstrap.draw(
        problem, points.run, lambda present: frontier.members(points.x, points.y, present, variant),
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
    options = _parser().parse_args(argv)
    try:
        _run(options)
    except DataError as error:
        print(f"scaling.fit: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scaling.fit",
        description="Fits a scaling law with 95% intervals; writes law.json and law.png.",
    )
    parser.add_argument("paths", nargs="+", help="directory of results, CSV or JSON lines")
    parser.add_argument("--x", help="column of the scale (default: train_flops)")
    parser.add_argument("--y", help="column of the error (default: test_error)")
    parser.add_argument("--group", help="column that names the model (default: model)")
    parser.add_argument("--where", action="append", default=[], metavar="COLUMN=VALUE",
                        help="use only these rows; may be repeated")
    parser.add_argument("--convert", choices=("percent", "accuracy", "percent-accuracy"),
                        help="what y is, if not an error as a fraction")
    parser.add_argument("--law", default="double", choices=names(), help="default: double")
    parser.add_argument("--frontier", default="envelope", choices=list(frontier.VARIANTS))
    parser.add_argument("--residual", default="log", choices=RESIDUALS)
    parser.add_argument("--huber", type=float, metavar="R",
                        help="residuals beyond R count linearly")
    parser.add_argument("--emphasis", type=float, default=0.0, metavar="G",
                        help="points weigh as x^G: above 0 the large scales decide")
    parser.add_argument("--bootstrap", type=int, default=1000, metavar="N",
                        help="resamples of the runs (default: 1000; 0: none)")
    parser.add_argument("--forecast", type=float, metavar="X",
                        help="scale to predict (default: the next size up)")
    parser.add_argument("--truth", action="append", default=[], metavar="NAME=VALUE",
                        help="a parameter's known value, to compare with; may be repeated")
    parser.add_argument("--report", action="store_true",
                        help="also write law.pdf and report.html, self-contained")
    parser.add_argument("--out", type=Path,
                        help="where to write (default: the directory given, or here)")
    return parser


def _run(options: argparse.Namespace) -> None:
    points = select(
        measurements.read(options.paths), x=options.x, y=options.y, group=options.group,
        where=options.where, convert=options.convert,
    )
    fit = of_points(
        points, form=options.law, variant=options.frontier,
        loss=Loss(options.residual, options.huber), emphasis=options.emphasis,
        resamples=options.bootstrap,
    )
    truth = _truth(options.truth, fit)
    at = options.forecast or next_scale(points, fit.frontier)
    forecast = _forecast(fit, at)
    print(summary.text(fit, truth, forecast))
    first = Path(options.paths[0])
    out = options.out or (first if first.is_dir() else Path())
    out.mkdir(parents=True, exist_ok=True)
    fit.save(out / "law.json", {"forecast": forecast, "truth": truth})
    from scaling import plot  # matplotlib takes a second to import

    plot.law(fit, out / "law.png", truth=truth, forecast=forecast)
    written = ["law.json", "law.png"]
    if options.report:
        from scaling import report

        plot.law(fit, out / "law.pdf", truth=truth, forecast=forecast)
        report.write(fit, out / "report.html", truth=truth, forecast=forecast)
        written += ["law.pdf", "report.html"]
    print(f"\nwrote {', '.join(str(out / name) for name in written)}")


def _truth(given: Sequence[str], fit: Fit) -> dict[str, float]:
    truth = {}
    for item in given:
        name, _, value = item.partition("=")
        if name not in fit.estimates or measurements.number(value) is None:
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
        "x": at, "y": float(fit(at)),
        "measurement_interval": ends(True),
        "law_interval": ends(False),
        "times_beyond_data": at / float(fit.points.x.max()),
    }


if __name__ == "__main__":
    sys.exit(main())
