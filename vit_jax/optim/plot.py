"""Draws the learning rates of a config: a line per trunk, and one for each branch's cooldown."""

import math
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import ml_collections
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from vit_jax import branches
from vit_jax.data import sources
from vit_jax.errors import UserError
from vit_jax.optim import schedules

# Okabe & Ito's colours, dark and light alternating so that neighbours differ in grey as well.
_COLOURS = ("#0072B2", "#E69F00", "#882255", "#56B4E9", "#D55E00", "#009E73", "#CC79A7", "#444444")
_STYLE = {"font.size": 10, "axes.spines.right": False, "axes.spines.top": False}
_SUFFIXES = (".png", ".pdf", ".svg")
# Steps that are drawn one by one; of more, as many, with those where a rate jumps.
_MOST = 20_000


def curves(config: ml_collections.ConfigDict) -> dict[int | None, tuple[np.ndarray, np.ndarray]]:
  """Returns the steps and learning rates of the trunk (key None) and of each branch, by its end.

  A branch begins where it leaves the trunk. The last point of a curve is where training ends,
  which is the rate that one more step would have.

  Raises:
    UserError: a plan or schedule that could not be trained.
  """
  plan = branches.plan(config.branches, config.cooldown, config.total_steps)
  if plan.branches:
    schedules.check_trunk(config.schedule.name)
  schedules.check_cooldown(config.cooldown_shape)
  schedule = schedules.make(
    **config.schedule,
    learning_rate=config.optimizer.learning_rate,
    total_steps=config.total_steps,
  )

  def curve(first: int, last: int, window: branches.Window) -> tuple[np.ndarray, np.ndarray]:
    steps = _steps(config, first, last)
    factor = schedules.cooldown(steps, window.start, window.end, config.cooldown_shape)
    return steps, np.asarray(schedule(steps) * factor)

  out = {None: curve(0, plan.trunk_steps, plan.trunk)}
  for end, window in plan.branches.items():
    out[end] = curve(window.start, end, window)
  return out


def _steps(config: ml_collections.ConfigDict, first: int, last: int) -> np.ndarray:
  steps = np.unique(np.linspace(first, last, min(_MOST, last - first + 1)).round().astype(int))
  jumps = [config.schedule.warmup, *config.schedule.boundaries]
  near = [b + d for b in jumps for d in (-1, 0) if first <= b + d <= last]
  return np.union1d(steps, near).astype(int)


def write(
  rungs: Mapping[str, ml_collections.ConfigDict], path: Path, *, log: bool = False
) -> Figure:
  """Draws the runs of a ladder (or one, of any name) into a file.

  Args:
    rungs: configs by name.
    path: .png, .pdf or .svg.
    log: a logarithmic axis of rates, from which rates of 0 are missing.

  Raises:
    UserError: see `curves`; a file that cannot be written.
  """
  if path.suffix not in _SUFFIXES:
    raise UserError(f"--out {path}: the name must end in {', '.join(_SUFFIXES)}")
  drawn = {name: curves(config) for name, config in rungs.items()}
  with matplotlib.rc_context(_STYLE):
    canvas = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = canvas.subplots()
    for i, (name, lines) in enumerate(drawn.items()):
      _draw(axes, name or rungs[name].schedule.name, lines, _COLOURS[i % len(_COLOURS)])
    curve_ends = [steps[-1] for lines in drawn.values() for steps, _ in lines.values()]
    axes.set(xlabel="step", ylabel="learning rate", xlim=(0, max(curve_ends)))
    if log:
      axes.set_yscale("log", nonpositive="mask")
    else:
      axes.set_ylim(bottom=0)
      _short_rates(
        axes, max(rates.max() for lines in drawn.values() for _, rates in lines.values())
      )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.grid(alpha=0.25, linewidth=0.6)
    _second_axis(axes, list(rungs.values()))
    axes.legend(frameon=False, fontsize=9)
  try:
    canvas.savefig(path, dpi=150)
  except OSError as e:
    raise UserError(f"--out {path}: {e.strerror or e}") from e
  return canvas


def _draw(
  axes: Axes, name: str, lines: Mapping[int | None, tuple[np.ndarray, np.ndarray]], colour: str
) -> None:
  ends = [end for end in lines if end is not None]
  label = f"{name} trunk" if ends else name
  axes.plot(*lines[None], color=colour, linewidth=1.8, label=label)
  listed = ", ".join(f"{end:,}" for end in ends)
  for end in ends:
    steps, rates = lines[end]
    axes.plot(
      steps,
      rates,
      color=colour,
      linewidth=1.2,
      linestyle="--",
      label=f"{name} cooldowns to {listed}" if end == ends[0] else None,
    )


def _short_rates(axes: Axes, highest: float) -> None:
  """Labels small rates without their zeros; the power of ten is in the axis label."""
  power = math.floor(math.log10(highest)) if highest > 0 else 0
  if -2 < power < 3:
    return
  axes.set_ylabel(f"learning rate / $10^{{{power}}}$")
  axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y / 10.0**power:g}"))


def _second_axis(axes: Axes, configs: list[ml_collections.ConfigDict]) -> None:
  """Adds what the steps mean in images or epochs, where that is the same for all runs."""
  sizes = {(c.batch_size, c.data.name, c.data.split, c.data.dir) for c in configs}
  if len(sizes) > 1:
    return
  batch_size, name, split, directory = sizes.pop()
  try:
    examples = sources.load(name, split, directory).info.size
    label = f"epochs of {examples:,} images"
  except UserError:  # not on this machine: the schedule can be looked at all the same
    millions = axes.get_xlim()[1] * batch_size >= 2e6
    examples, label = (1e6, "millions of images") if millions else (1, "images")
  per_step = batch_size / examples
  top = axes.secondary_xaxis("top", functions=(lambda x: x * per_step, lambda x: x / per_step))
  top.set_xlabel(label)
  top.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.10g}"))
