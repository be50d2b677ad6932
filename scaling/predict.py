"""Answers questions with a fitted law.

    python -m scaling.predict results/law.json --flops 1e21
    python -m scaling.predict results/law.json --error 0.1

The fit is made again from the data in law.json, so the answers agree with what scaling.fit printed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

import numpy as np

from scaling import command, compare, decide, extrapolate, lawfile
from scaling.errors import DataError
from scaling.lawform import Array
from scaling.result import Fit
from scaling.words import figure, span

_EXAMPLES = """\
  python -m scaling.predict results/law.json --flops 1e21
  python -m scaling.predict results/law.json --error 0.1
  python -m scaling.predict law.json --x 5000 --json     (x in the unit of the law: GPU hours, ...)
"""
FAR = 10.0  # times beyond the data from which a prediction carries a warning


def at_scale(fit: Fit, x: float) -> dict[str, object]:
  """Predicts the error at a scale.

  Args:
    fit: a fitted law.
    x: the scale, in the unit of the data.

  Returns:
    "x"; "times_beyond_data"; "law" and "average", each {"y", "interval"}: the fitted law and
    the average of all forms by their error on left-out scales; "forms": the average's shares,
    or why there is no average; "curve", where all points are of one model: the same for a
    measurement, by `scaling.extrapolate`; "allocation": see `scaling.decide.allocation`.
  """
  where = np.array([x])
  answer: dict[str, object] = {
    "x": x,
    "times_beyond_data": x / float(fit.points.x.max()),
    "law": {"y": float(fit(x)), "interval": _pair(fit.interval(where))},
    "allocation": decide.allocation(fit, x),
  }
  one_curve = len(np.unique(fit.points.group)) == 1 and len(np.unique(fit.points.x)) >= 3
  if one_curve and (fit.points.y > 0).all():  # the curve's law is fitted to log y
    curve = extrapolate.predict(fit.points.x, fit.points.y, where)
    answer["curve"] = {"y": float(curve.y[0]), "interval": _pair((curve.low, curve.high))}
  try:
    forms = compare.rivals(fit.solution)
  except DataError as error:
    return answer | {"average": None, "forms": str(error)}
  answer["average"] = {
    "y": float(compare.average(forms, where)[0]),
    "interval": _average_interval(fit, forms, where),
  }
  answer["forms"] = {c.law.name: {"weight": c.weight, "left_out_error": c.error} for c in forms}
  return answer


def _average_interval(fit: Fit, forms: Sequence[compare.Candidate], where: Array) -> list[float]:
  """Returns the average's 95% interval at where [1], with and without the frontier's edges."""
  ends = [_pair(compare.interval(forms, where))]
  if fit.interior is not None:
    try:
      ends.append(_pair(compare.interval(compare.rivals(fit.interior), where)))
    except DataError:  # too few points between the edges to leave any out: the law speaks for them
      ends.append(_pair(fit.interior.interval(where)))
  return [min(low for low, _ in ends), max(high for _, high in ends)]


def _pair(ends: tuple[np.ndarray, np.ndarray]) -> list[float]:
  return [float(end[0]) for end in ends]


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns the exit status."""
  parser = command.Parser(
    "scaling.predict",
    "Predicts the error at a scale, or the scale for an error, from a law.json.",
    _EXAMPLES,
  )
  parser.add_argument("law", help="law.json written by scaling.fit")
  parser.add_argument(
    "--flops", "--x", dest="x", type=float, metavar="X", help="scale, in the unit of the law's data"
  )
  parser.add_argument("--error", type=float, metavar="E", help="error to reach")
  parser.add_argument("--json", action="store_true", help="print JSON instead of text")
  return command.run(parser, _run, argv)


def _run(options: argparse.Namespace) -> None:
  if (options.x is None) == (options.error is None):
    raise DataError("give either --flops or --error")
  fit = lawfile.load(options.law)
  if options.x is not None:
    if not (np.isfinite(options.x) and options.x > 0):
      raise DataError(f"--flops {options.x:g}: the scale must be positive")
    needed, x = None, options.x
  else:
    needed = _needed(fit, options.error)
    x = needed.x
  answer = at_scale(fit, x) if np.isfinite(x) else None
  advice = _advice(fit, x) if np.isfinite(x) else {}
  if options.json:
    print(_json(needed, answer, advice))
  else:
    print("\n".join(_text(fit, options.error, needed, answer, advice)))


def _needed(fit: Fit, error: float) -> decide.Required:
  if not (np.isfinite(error) and error > 0):
    raise DataError(f"--error {error:g}: the error must be positive")
  if error > fit.points.y.max():
    raise DataError(
      f"--error {error:g}: already the worst run does better ({figure(float(fit.points.y.max()))})"
    )
  return decide.required(fit, error)


def _advice(fit: Fit, x: float) -> dict[str, tuple[float, float]]:
  """The most telling next run, within the measured range and up to ten times beyond it."""
  top = float(fit.points.x.max())
  found = {"within the measured range": decide.next_run(fit.solution, x, top)}
  if x > top:
    found["up to the wanted scale" if x < 10 * top else "up to 10 times the largest"] = (
      decide.next_run(fit.solution, x, min(x, 10 * top))
    )
  return found


def _json(needed: decide.Required | None, answer: dict | None, advice: dict) -> str:
  def plain(value: object) -> object:
    if isinstance(value, float) and not np.isfinite(value):
      return None
    if isinstance(value, dict):
      return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
      return [plain(v) for v in value]
    return plain(vars(value)) if hasattr(value, "__dict__") else value

  return json.dumps(
    plain({"required": needed, "prediction": answer, "next_run": advice}), indent=1, allow_nan=False
  )


def _text(
  fit: Fit,
  error: float | None,
  needed: decide.Required | None,
  answer: dict | None,
  advice: dict[str, tuple[float, float]],
) -> list[str]:
  x_name, y_name = fit.points.names["x"], fit.points.names["y"]
  lines = []
  if needed is not None:
    if not np.isfinite(needed.x):
      floor = fit.estimates.get(fit.law.floor or "")
      why = f": its floor is {figure(floor.value)} ({span(*floor.interval)})" if floor else ""
      lines.append(f"{y_name} {figure(error)} is out of the law's reach{why}")
    else:
      high = figure(needed.high) if np.isfinite(needed.high) else "no end: may be never"
      lines.append(
        f"{y_name} {figure(error)} needs {x_name} {figure(needed.x)} "
        f"(95%: {figure(needed.low)} … {high})"
      )
  if answer is None:
    return lines
  beyond = answer["times_beyond_data"]
  lines.append(f"at {x_name} = {figure(answer['x'])}, {beyond:.2g} times the largest measured:")
  for key, what in (
    ("law", fit.law.formula),
    ("average", "average of forms"),
    ("curve", "a measurement on this learning curve, law with drift"),
  ):
    if answer.get(key):
      lines.append(
        f"  {y_name} {figure(answer[key]['y'])} (95%: {span(*answer[key]['interval'])})  {what}"
      )
  if answer["average"]:
    shares = ", ".join(
      f"{name} {100 * form['weight']:.0f}%"
      for name, form in answer["forms"].items()
      if form["weight"] > 0.01
    )
    lines.append(f"    forms by their error on left-out scales: {shares}")
  else:
    lines.append(f"  no average of forms: {answer['forms']}")
  if beyond > FAR:
    lines.append(
      f"  WARNING: {beyond:.2g} times beyond the data. No law has been tested that "
      "far; the interval covers the noise, not a bend that lies ahead"
    )
  least = float(fit.points.x.min())
  if answer["x"] < least:
    lines.append(
      f"  WARNING: below the smallest measured ({figure(least)}), where the frontier says little"
    )
  for name, share in answer["allocation"].items():
    lines.append(
      f"  {name} {figure(share.value)} (95%: {span(share.low, share.high)}; grows "
      f"as {x_name}^{share.exponent:.2f} on the frontier)"
    )
  for where, (x, left) in advice.items():
    lines.append(
      f"  next run, {where}: at {x_name} = {figure(x)} shrinks the interval to "
      f"{100 * left:.0f}% of its width"
    )
  return lines


if __name__ == "__main__":
  sys.exit(main())
