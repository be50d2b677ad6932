"""The figure of "Scaling Vision Transformers" (2106.04560, figure 8): which shapes fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from scaling import plot
from scaling.planner.outcome import SOURCES, Outcome
from scaling.planner.savings import SAVINGS

# From what needs no saving to what does not fit: dark to light, so that grey print tells them too.
_COLOURS = ("#1B4F72", "#2E9E8F", "#F2C14E", "#E58A8A", "#EFEFEF")
_SURE = {"compiled": ("o", "compiled"), "extrapolated": ("|", "known from two compiled depths")}
_COLUMNS = 3


def draw(outcomes: Sequence[Outcome], path: str | Path | None = None) -> Figure:
  """Draws one panel for each depth: width and heads, MLP width, and the least saving that fits.

  Args:
    outcomes: of cells that differ in depth, width, heads, MLP width and optimiser alone.
    path: .png, .pdf or .svg to write; None: only return the figure.
  """
  shapes = [o.cell.shape for o in outcomes]
  depths = sorted({s.depth for s in shapes})
  pairs = sorted({(s.width, s.num_heads) for s in shapes}, key=lambda p: (p[0], -p[1]))
  mlps = sorted({s.mlp_dim for s in shapes})
  savings = [name for name in SAVINGS if any(o.cell.setting.optimizer == name for o in outcomes)]
  by_cell = {(o.cell.shape, o.cell.setting.optimizer): o for o in outcomes}
  columns = min(_COLUMNS, len(depths))
  rows = -(-len(depths) // columns)
  with matplotlib.rc_context({**plot.STYLE, "axes.spines.top": True, "axes.spines.right": True}):
    size = (max(6.4, columns * (1.2 + 0.17 * len(pairs))), rows * (1.3 + 0.17 * len(mlps)) + 1.5)
    canvas = Figure(figsize=size, layout="constrained")
    panels = canvas.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(depths) :]:
      axes.set_axis_off()
    marks = set()
    for axes, depth in zip(panels, depths, strict=False):
      mine = [o for o in outcomes if o.cell.shape.depth == depth]
      marks |= _panel(axes, mine, by_cell, pairs, mlps, savings)
      axes.set_title(f"depth {depth}", fontsize=10)
    for i, axes in enumerate(panels[: len(depths)]):
      if i % columns == 0:
        axes.set_ylabel("MLP width")
      if i + columns >= len(depths):
        axes.set_xlabel("width//heads")
    canvas.suptitle(_title(outcomes[0]), fontsize=11)
    handles = [
      Patch(facecolor=_COLOURS[i], edgecolor="0.6", label=f"fits: {SAVINGS[name].label}")
      for i, name in enumerate(savings)
    ]
    handles.append(Patch(facecolor=_COLOURS[-1], edgecolor="0.6", label="does not fit"))
    handles += [
      Line2D(
        [],
        [],
        linestyle="",
        color="black",
        marker=_SURE[s][0],
        markersize=4,
        label=f"an optimiser {_SURE[s][1]}",
      )
      for s in _SURE
      if s in marks
    ]
    canvas.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return plot.save(canvas, path)


def _title(one: Outcome) -> str:
  setting, shape = one.cell.setting, one.cell.shape
  hbm = f", {one.where.hbm / 2**30:.2f} GiB each" if one.where.hbm else ""
  return (
    f"What fits on {one.where.name}{hbm}: patch {shape.patch_size}, batch {setting.batch} per "
    f"device, {setting.sharding}, remat {setting.remat}"
  )


def _panel(axes: Axes, mine: list, by_cell: dict, pairs: list, mlps: list, savings: list) -> set:
  image = np.full((len(mlps), len(pairs)), np.nan)
  marks = {}
  for known in mine:
    shape = known.cell.shape
    at = mlps.index(shape.mlp_dim), pairs.index((shape.width, shape.num_heads))
    every = [by_cell.get((shape, name)) for name in savings]
    fitting = [i for i, o in enumerate(every) if o is not None and o.fits]
    image[at] = fitting[0] if fitting else len(_COLOURS) - 1
    marks[at] = min((o.source for o in every if o is not None), key=SOURCES.index)
  colours = ListedColormap(_COLOURS)
  axes.imshow(
    image,
    cmap=colours,
    vmin=-0.5,
    vmax=len(_COLOURS) - 0.5,
    origin="lower",
    aspect="auto",
    interpolation="nearest",
  )
  for source, (marker, _) in _SURE.items():
    points = [at for at, s in marks.items() if s == source]
    if points:
      y, x = zip(*points, strict=True)
      axes.scatter(x, y, s=14, marker=marker, color="black", linewidths=1)
  for known in mine:
    shape = known.cell.shape
    if shape.published:
      at = pairs.index((shape.width, shape.num_heads)), mlps.index(shape.mlp_dim)
      axes.annotate(
        shape.published,
        at,
        ha="center",
        va="center",
        fontsize=8,
        fontweight="bold",
        bbox=dict(boxstyle="circle,pad=0.15", facecolor="white", edgecolor="black"),
      )
  axes.set_xticks(range(len(pairs)), [f"{w}//{h}" for w, h in pairs], rotation=90, fontsize=7)
  axes.set_yticks(range(len(mlps)), [str(m) for m in mlps], fontsize=7)
  axes.set_xticks(np.arange(len(pairs) - 1) + 0.5, minor=True)
  axes.set_yticks(np.arange(len(mlps) - 1) + 0.5, minor=True)
  axes.grid(which="minor", color="white", linewidth=0.6)
  axes.tick_params(which="both", length=0)
  return set(marks.values())
