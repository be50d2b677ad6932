"""One self-contained report.html: figures, tables and what a reader needs to redo the fit."""

from __future__ import annotations

import base64
import html
import platform
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import scipy

from scaling import compare, figures, plot, words
from scaling.compare import Candidate
from scaling.errors import DataError
from scaling.result import Fit

_CSS = """body{font:15px/1.45 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em}
table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .8em;border-bottom:1px solid #ccc;
text-align:left}th{border-bottom:2px solid #444}img{max-width:100%}figcaption{color:#444}
figure{margin:1.5em 0}details{margin:1em 0}.warn{border-left:4px solid #444;padding-left:.8em}"""


def write(
  fit: Fit,
  path: str | Path,
  *,
  truth: dict[str, float] | None = None,
  forecast: dict[str, object] | None = None,
) -> None:
  """Writes the report; needs no other file and no network to be read.

  Args:
    fit: the fitted law.
    path: where to write the HTML.
    truth: known parameters, drawn and compared.
    forecast: as in law.json.
  """
  try:
    candidates, why = compare.rivals(fit.solution), ""
  except DataError as error:
    candidates, why = [], str(error)
  sections = [
    f"<h1>{_text(fit.points.names['y'])} against {_text(fit.points.names['x'])}</h1>",
    f"<p><b>{_text(fit.law.formula)}</b>, {_text(fit.law.source)}</p>",
    _parameters(fit, truth or {}),
    _list([*fit.notes, *fit.findings()], "warn"),
    *_figures(fit, candidates, truth, forecast),
    _forms(candidates) if candidates else f"<p>{_text(why)}.</p>",
    _forecast(fit, forecast),
    "<h2>To redo this fit</h2>",
    _list(reproducibility(fit)),
    _data(fit),
  ]
  page = (
    f"<!doctype html><html lang=en><meta charset=utf-8><title>{_text(fit.law.formula)}"
    f"</title><style>{_CSS}</style><body>{''.join(sections)}</body></html>\n"
  )
  Path(path).write_text(page, encoding="utf-8")


def reproducibility(fit: Fit) -> list[str]:
  """Returns what the check-list of arXiv 2502.18969 asks of a scaling-law fit."""
  problem, points, names = fit.solution.problem, fit.points, fit.points.names
  excluded = len(points) - len(fit.frontier)
  flops = (
    "train_flops counts a multiply and an add as two operations: 3 x forward x images seen"
    if names["x"] == "train_flops"
    else f"{names['x']} is in the unit of the input"
  )
  huber = "squared" if fit.loss.huber is None else f"Huber beyond {fit.loss.huber:g}"
  return [
    f"form: {fit.law.formula}, domain {fit.law.domain}",
    f"units: {flops}; {names['y']} as a fraction or loss",
    f"points: {len(points)} measured, {len(fit.frontier)} fitted ({fit.variant}), "
    f"{excluded} not on the frontier",
    f"loss: {huber} {fit.loss.residual} residuals; fitted points weigh as "
    f"{names['x']}^{fit.emphasis:g}",
    f"search: all {max(len(problem.nodes), 1)} nodes of a grid over the nonlinear parameters, "
    "linear ones solved exactly, the best polished by Levenberg-Marquardt; no random starts",
    f"box: {', '.join(_box(fit))} (x in units of {words.figure(float(np.mean(problem.unit)))})",
    "intervals: 95%, profile likelihood with an F test on "
    f"{fit.scatter.degrees} degrees of freedom, with and without the frontier's edges",
    "bootstrap: over runs, seed 0; see law.json",
    f"versions: Python {platform.python_version()}, numpy {np.__version__}, "
    f"scipy {scipy.__version__}, matplotlib {matplotlib.__version__}",
    f"command: {' '.join(sys.argv)}",
  ]


def _box(fit: Fit) -> Iterable[str]:
  problem = fit.solution.problem
  for name, low, high in zip(fit.law.parameters, problem.lower, problem.upper, strict=True):
    yield f"{name} {words.span(float(low), float(high), 2)}"


def _text(value: object) -> str:
  return html.escape(str(value))


def _list(items: Sequence[str], style: str = "") -> str:
  return f"<ul class='{style}'>{''.join(f'<li>{_text(item)}</li>' for item in items)}</ul>"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  head = "".join(f"<th>{_text(cell)}</th>" for cell in header)
  body = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in rows)
  return f"<table><tr>{head}</tr>{body}</table>"


def _parameters(fit: Fit, truth: dict[str, float]) -> str:
  rows = []
  for name, estimate in fit.estimates.items():
    known = fit.scatter.degrees > 0
    interval = words.span(*estimate.interval) if known else "not available"
    boot = words.span(*estimate.bootstrap) if estimate.bootstrap else "-"
    rows.append(
      [
        name,
        words.figure(estimate.value, 4),
        interval,
        boot,
        "yes" if estimate.identified else "no",
        words.figure(truth[name]) if name in truth else "-",
      ]
    )
  return _table(
    ["", "estimate", "95% interval", "bootstrap over runs", "identified", "known"], rows
  )


def _figures(
  fit: Fit,
  candidates: list[Candidate],
  truth: dict[str, float] | None,
  forecast: dict[str, object] | None,
) -> list[str]:
  with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "figure.png"

    def show(caption: str) -> str:
      data = base64.b64encode(path.read_bytes()).decode()
      return (
        f"<figure><img alt='{_text(caption)}' src='data:image/png;base64,{data}'>"
        f"<figcaption>{_text(caption)}</figcaption></figure>"
      )

    plot.law(fit, path, truth=truth, forecast=forecast)
    shown = [show("Measurements, compute-optimal frontier (outlined), law and its 95% band.")]
    figures.residuals(fit, path)
    shown.append(show("What the law leaves unexplained. A pattern means a wrong form."))
    figures.profiles(fit, path)
    shown.append(
      show(
        "Misfit with one parameter held: the interval ends where it crosses the "
        "dashed line; a curve that stays below it, with the "
        "frontier's edges (drawn) or without, is not identified."
      )
    )
    figures.models(fit, path)
    shown.append(show("Each model's points under a saturating law of its own."))
    if candidates:
      figures.left_out(fit, candidates, path)
      shown.append(show("Forms asked for the largest scales that they had not seen."))
  return shown


def _forms(candidates: list[Candidate]) -> str:
  rows = [
    [c.law.name, c.law.formula, f"{100 * c.error:.1f}%", f"{c.weight:.2f}"] for c in candidates
  ]
  return "<h2>Forms, by their error on the left-out largest scales</h2>" + _table(
    ["form", "", "RMS error", "weight in the average"], rows
  )


def _forecast(fit: Fit, forecast: dict[str, object] | None) -> str:
  if not forecast:
    return ""
  low, high = (np.inf if end is None else end for end in forecast["measurement_interval"])
  beyond = forecast["times_beyond_data"]
  far = " <b>More than 10 times beyond the data.</b>" if beyond > 10 else ""
  return (
    f"<h2>Forecast</h2><p>At {_text(fit.points.names['x'])} = "
    f"{words.figure(forecast['x'])}, {beyond:.2g} times the largest "
    f"measured: {words.figure(forecast['y'])}; 95% of measurements in "
    f"{_text(words.span(low, high))}.{far}</p>"
  )


def _data(fit: Fit) -> str:
  fitted = set(fit.frontier.tolist())
  points = fit.points
  rows = [
    [
      points.group[i],
      f"{points.x[i]:.6g}",
      f"{points.y[i]:.6g}",
      "fitted" if i in fitted else "",
      points.place[i],
    ]
    for i in np.argsort(points.x, kind="stable")
  ]
  table = _table([points.names["group"], points.names["x"], points.names["y"], "", "from"], rows)
  return f"<details><summary>The data ({len(points)} points)</summary>{table}</details>"
