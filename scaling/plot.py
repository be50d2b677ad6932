"""Figures, readable in grey print and by colour-blind people.

Models differ by marker and by lightness as well as by hue; lines differ by dash pattern.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from scaling.result import Fit
from scaling.words import figure, label, span

# Okabe & Ito's colours, dark and light alternating so that neighbours differ in grey as well.
COLOURS = ("#0072B2", "#E69F00", "#882255", "#56B4E9", "#D55E00", "#009E73", "#CC79A7", "#444")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p", "h")
STYLE = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}


def model_styles(fit: Fit) -> dict[str, dict[str, str]]:
  """Returns colour and marker of every model, in order of their largest scale."""
  points = fit.points
  models = sorted(set(points.group.tolist()), key=lambda g: points.x[points.group == g].max())
  return {
    model: {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
    for i, model in enumerate(models)
  }


def law(
  fit: Fit,
  path: str | Path | None = None,
  *,
  truth: dict[str, float] | None = None,
  forecast: dict[str, object] | None = None,
) -> Figure:
  """Draws points per model, frontier, curve, band, floor and forecast.

  Args:
    fit: the fitted law.
    path: .png, .pdf or .svg to write; None: only return the figure.
    truth: known parameters; a known floor is drawn.
    forecast: as in law.json; drawn with its interval.
  """
  with matplotlib.rc_context(STYLE):
    canvas = Figure(figsize=(7.2, 4.8), layout="constrained")
    axes = canvas.subplots()
    _points(axes, fit)
    _curve(axes, fit, forecast, truth or {})
    axes.set(
      xscale="log",
      yscale="log",
      xlabel=label(fit.points.names["x"]),
      ylabel=label(fit.points.names["y"]),
    )
    plain_ticks(axes)
    axes.set_title(_title(fit), fontsize=10)
    axes.legend(
      fontsize=8, ncols=2 if len(axes.get_legend_handles_labels()[0]) > 9 else 1, frameon=False
    )
    return save(canvas, path)


def save(canvas: Figure, path: str | Path | None) -> Figure:
  """Writes a figure if there is a path, and returns it."""
  if path is not None:
    canvas.savefig(path, dpi=150)
  return canvas


def _points(axes: Axes, fit: Fit) -> None:
  points = fit.points
  on = np.zeros(len(points), bool)
  on[fit.frontier] = True
  for model, style in model_styles(fit).items():
    mine = points.group == model
    axes.scatter(
      points.x[mine & ~on], points.y[mine & ~on], s=18, alpha=0.35, linewidths=0, **style
    )
    axes.scatter(
      points.x[mine & on],
      points.y[mine & on],
      s=34,
      edgecolors="black",
      linewidths=0.8,
      zorder=3,
      label=model,
      **style,
    )
  kept = fit.frontier
  axes.plot(
    points.x[kept],
    points.y[kept],
    color="0.55",
    linewidth=0.8,
    zorder=1,
    linestyle=(0, (1, 1.5)),
    label="frontier (outlined points)",
  )


def _curve(
  axes: Axes, fit: Fit, forecast: dict[str, object] | None, truth: dict[str, float]
) -> None:
  points = fit.points
  end = max(points.x.max() * 3, float(forecast["x"]) * 1.5 if forecast else 0.0)
  x = np.geomspace(points.x[fit.frontier].min() / 1.5, end, 60)
  y = fit(x)
  inside = x <= points.x.max()
  axes.plot(x[inside], y[inside], color="black", linewidth=1.6, zorder=2, label=fit.law.formula)
  axes.plot(x[~inside], y[~inside], color="black", linewidth=1.6, zorder=2, linestyle="--")
  bottom = min(points.y.min(), float(y.min()))
  if fit.scatter.degrees > 0:
    low, high = fit.interval(x)
    axes.fill_between(
      x,
      np.maximum(low, 1e-9),
      np.minimum(high, 10 * points.y.max()),
      color="0.82",
      zorder=0,
      label="95% band of the law",
    )
    bottom = min(bottom, max(float(low.min()), 0.5 * bottom))
  floor = fit.estimates.get(fit.law.floor or "")
  if floor and floor.value > 0:
    axes.axhline(
      floor.value,
      color="0.25",
      linewidth=1,
      linestyle="-.",
      label=f"floor {fit.law.floor} = {figure(floor.value)} ({span(*floor.interval)})",
    )
    bottom = min(bottom, floor.value)
  if fit.law.floor in truth:
    axes.axhline(
      truth[fit.law.floor],
      color=COLOURS[4],
      linewidth=1.4,
      linestyle=(0, (5, 2)),
      label=f"true floor {truth[fit.law.floor]:.3g}",
    )
    bottom = min(bottom, truth[fit.law.floor])
  if forecast:
    low, high = forecast["measurement_interval"]
    centre = float(forecast["y"])
    high = 10 * points.y.max() if high is None else high
    axes.errorbar(
      [forecast["x"]],
      [centre],
      [[centre - low], [high - centre]],
      fmt="o",
      color="black",
      markerfacecolor="white",
      capsize=4,
      zorder=4,
      label=f"forecast {centre:.3g}",
    )
  axes.set_ylim(0.93 * bottom, 1.08 * points.y.max())


def _title(fit: Fit) -> str:
  values = ", ".join(f"{k} = {v:.3g}" for k, v in fit.parameters.items())
  return f"{fit.law.formula}:  {values}"


def plain_ticks(axes: Axes) -> None:
  """Labels a logarithmic error axis with plain numbers at steps that a reader expects."""
  low, high = axes.get_ylim()
  for steps in (
    (1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9),
    (1, 1.5, 2, 3, 4, 5, 7),
    (1, 2, 5),
    (1,),
  ):
    ticks = [s * 10.0**e for e in range(-9, 6) for s in steps if low <= s * 10.0**e <= high]
    if len(ticks) <= 9:
      break
  axes.yaxis.set_major_locator(FixedLocator(ticks))
  axes.yaxis.set_minor_locator(NullLocator())
  axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
