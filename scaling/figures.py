"""The figures behind a law: residuals, profiles, per-model curves and left-out points.

Each function returns the figure, and writes it if a path is given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scaling import laws, plot
from scaling.compare import Candidate
from scaling.errors import DataError
from scaling.result import Fit
from scaling.solution import Solution
from scaling.words import label

_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))


def residuals(fit: Fit, path: str | Path | None = None) -> Figure:
  """Draws what the law leaves unexplained, against scale."""
  problem, kept = fit.solution.problem, fit.frontier
  x, y = fit.points.x[kept], fit.points.y[kept]
  law, none = fit(x), np.zeros((len(x), 1))
  left = -problem.loss.residuals(law, none, y)[0]
  factor = 100 if problem.loss.residual == "log" else 1
  unit = {
    "log": "measured above law (%)",
    "linear": "measured minus law",
    "binomial": "measured minus law, 2 arcsin sqrt",
  }[problem.loss.residual]
  with matplotlib.rc_context(plot.STYLE):
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    scatter = factor * math.sqrt(fit.scatter.variance)
    axes.axhspan(-2 * scatter, 2 * scatter, color="0.9", zorder=0, label="±2 scatter")
    axes.axhline(0, color="black", linewidth=1)
    for model, style in plot.model_styles(fit).items():
      mine = fit.points.group[kept] == model
      if mine.any():
        axes.scatter(
          x[mine],
          factor * left[mine],
          s=34,
          edgecolors="black",
          linewidths=0.8,
          label=model,
          zorder=3,
          **style,
        )
    axes.set(xscale="log", xlabel=label(fit.points.names["x"]), ylabel=unit)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return plot.save(figure, path)


def profiles(fit: Fit, path: str | Path | None = None) -> Figure:
  """Draws the profile of every parameter; where it stays low, the data cannot tell."""
  with matplotlib.rc_context(plot.STYLE):
    columns = min(4, len(fit.estimates))
    lines = -(-len(fit.estimates) // columns)
    figure = Figure(figsize=(2.6 * columns, 2.5 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes, (name, estimate) in zip(grid.ravel(), fit.estimates.items(), strict=False):
      profile = estimate.profile
      near = profile.excess < 4 * min(profile.limit, 50)
      shown = near | np.roll(near, 1) | np.roll(near, -1)
      values, excess = profile.values[shown], profile.excess[shown]
      if name in fit.law.logarithmic and values.min() > 0 and (values.max() / values.min() > 20):
        axes.set_xscale("log")
      else:
        axes.xaxis.set_major_locator(MaxNLocator(4))
      axes.plot(values, excess, color="black", marker=".", markersize=3)
      if np.isfinite(profile.limit):
        axes.axhline(profile.limit, color=plot.COLOURS[4], linestyle="--", linewidth=1)
        axes.set_ylim(0, 2.5 * profile.limit)
      axes.axvline(estimate.value, color="0.6", linewidth=1, linestyle=":")
      axes.set_title(name + ("" if estimate.identified else ": not identified"), fontsize=9)
      axes.tick_params(labelsize=7)
    for axes in grid.ravel()[len(fit.estimates) :]:
      axes.set_visible(False)
    grid[0, 0].set_ylabel("excess misfit (t²)")
    return plot.save(figure, path)


def models(fit: Fit, path: str | Path | None = None) -> Figure:
  """Draws the curve of every model that has enough points, each under its own law."""
  points = fit.points
  with matplotlib.rc_context(plot.STYLE):
    figure = Figure(figsize=(6.8, 4.2), layout="constrained")
    axes = figure.subplots()
    for model, style in plot.model_styles(fit).items():
      mine = points.group == model
      x, y = points.x[mine], points.y[mine]
      axes.scatter(x, y, s=16, linewidths=0, label=model, **style)
      best = [y[x == value].min() for value in np.unique(x)]
      try:
        own = Solution.of(laws.SATURATING, np.unique(x), np.array(best), None, fit.loss)
      except DataError:
        continue
      fine = np.geomspace(x.min(), x.max(), 60)
      axes.plot(fine, own(fine), color=style["color"], linewidth=1)
    fine = np.geomspace(points.x.min(), points.x.max(), 80)
    axes.plot(fine, fit(fine), color="black", linewidth=1.8, linestyle="--", label="the law")
    axes.set(
      xscale="log", yscale="log", xlabel=label(points.names["x"]), ylabel=label(points.names["y"])
    )
    shown = points.y[points.y > 0]  # on a logarithmic axis
    axes.set_ylim(0.93 * shown.min(), 1.08 * shown.max())
    plot.plain_ticks(axes)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return plot.save(figure, path)


def left_out(fit: Fit, candidates: Sequence[Candidate], path: str | Path | None = None) -> Figure:
  """Draws predictions of the left-out largest scales against what was measured there."""
  with matplotlib.rc_context(plot.STYLE):
    figure = Figure(figsize=(9.2, 3.6), layout="constrained")
    curve, ratio = figure.subplots(1, 2)
    kept = fit.frontier
    curve.scatter(
      fit.points.x[kept], fit.points.y[kept], s=22, color="black", zorder=3, label="measured"
    )
    for i, candidate in enumerate(candidates):
      style = {"color": plot.COLOURS[i % 8], "marker": plot.MARKERS[i % 12]}
      trial = candidate.trials[-1]
      curve.plot(
        trial.x,
        trial.predicted,
        linestyle=_DASHES[i % 5],
        markersize=4,
        linewidth=1.2,
        label=f"{candidate.law.name} without them",
        **style,
      )
      for trial in candidate.trials:
        ratio.scatter(
          trial.measured, trial.predicted / trial.measured, s=18, alpha=0.8, linewidths=0, **style
        )
      ratio.scatter(
        [],
        [],
        label=f"{candidate.law.name}: {100 * candidate.error:.1f}%, weight {candidate.weight:.2f}",
        **style,
      )
    if candidates:
      curve.axvspan(
        candidates[0].trials[-1].x.min() * 0.9,
        fit.points.x[kept].max() * 1.2,
        color="0.92",
        zorder=0,
      )
    names = fit.points.names
    curve.set(
      xscale="log",
      yscale="log",
      xlabel=label(names["x"]),
      ylabel=label(names["y"]),
      title="largest scales left out (shaded)",
    )
    plot.plain_ticks(curve)
    curve.legend(fontsize=7, frameon=False)
    ratio.axhline(1, color="black", linewidth=1)
    ratio.set(
      xlabel=f"measured {label(names['y'])}",
      ylabel="predicted / measured",
      title="all left-out predictions",
    )
    ratio.legend(fontsize=7, frameon=False)
    return plot.save(figure, path)
