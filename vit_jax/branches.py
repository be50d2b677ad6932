"""A trunk and its cooldowns: where each branch starts and ends.

One run at an open-ended learning rate, the trunk, answers for many training durations: a branch
of B steps follows the trunk up to B - cooldown and decays the learning rate to 0 from there
(Scaling Vision Transformers, arXiv 2106.04560, section 3.5).
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from vit_jax.errors import UserError
from vit_jax.optim.schedules import NEVER


@dataclasses.dataclass(frozen=True)
class Window:
  """Steps between which the learning rate decays to 0; `end` is where training ends."""

  start: int
  end: int


@dataclasses.dataclass(frozen=True)
class Plan:
  """All that a config asks for: the trunk's length and the cooldown of every branch."""

  trunk: Window  # the trunk's own cooldown, `NEVER` when branches have theirs
  trunk_steps: int
  branches: dict[int, Window]  # by the step at which it ends

  @property
  def fork_steps(self) -> list[int]:
    """The trunk steps whose checkpoints branches start from."""
    return sorted(w.start for w in self.branches.values())

  @property
  def steps(self) -> int:
    """Steps to train, the trunk and all cooldowns."""
    return self.trunk_steps + sum(w.end - w.start for w in self.branches.values())

  @property
  def steps_from_scratch(self) -> int:
    """Steps that separate runs of the same durations would take."""
    return sum(w.end for w in self.branches.values())


def directory(workdir: Path, step: int) -> Path:
  """Returns the run directory of the branch that ends at `step`, of the trunk in `workdir`."""
  return workdir / "branches" / str(step)


def _window(end: int, cooldown: float) -> Window:
  length = round(cooldown * end) if cooldown < 1 else int(cooldown)
  if length > end:
    raise UserError(
      f"config.cooldown={cooldown:g} steps is longer than the run of {end} steps: "
      "shorten it, or give a share below 1"
    )
  return Window(end - length, end)


def plan(branches: Sequence[int], cooldown: float, total_steps: int | None) -> Plan:
  """Returns the plan of a run.

  Without branches, the run has `total_steps` and its own cooldown at their end. With branches,
  the trunk never decays, and is `total_steps` long, or just as long as its last branch needs.

  Raises:
    UserError: no length, a branch beyond the trunk, a branch without a cooldown, twice the same.
  """
  if not 0 <= cooldown < math.inf or (cooldown >= 1 and (cooldown % 1 or cooldown < 2)):
    raise UserError(
      f"config.cooldown={cooldown:g} is neither a share, from 0 to below 1, nor a "
      "whole number of at least 2 steps"
    )
  if total_steps is not None and total_steps < 1:
    raise UserError(f"config.total_steps={total_steps} must be at least 1")
  if not branches:
    if total_steps is None:
      raise UserError(
        "config.total_steps is not set: give the length of the run in steps, or config.branches=(…)"
      )
    window = _window(total_steps, cooldown)
    return Plan(window if cooldown else Window(NEVER, NEVER), total_steps, {})

  if any(not isinstance(b, int) or b < 1 for b in branches):
    raise UserError(
      f"config.branches={tuple(branches)}: each must be a whole number of steps, at least 1"
    )
  if len(set(branches)) < len(branches):
    raise UserError(f"config.branches={tuple(branches)} names a step twice")
  if not cooldown:
    raise UserError(
      "config.branches needs config.cooldown: the share (below 1) or number of steps "
      "over which each branch decays, such as 0.2"
    )
  windows = {b: _window(b, cooldown) for b in sorted(branches)}
  last = max(w.start for w in windows.values())
  for b, w in windows.items():
    if w.end == w.start:
      raise UserError(
        f"branch {b} has a cooldown of 0 steps: config.cooldown={cooldown:g} is too short for it"
      )
    if total_steps is not None and w.start > total_steps:
      raise UserError(
        f"branch {b} starts at step {w.start}, beyond the trunk's end at "
        f"{total_steps}: raise config.total_steps to {last} or drop the branch"
      )
  return Plan(Window(NEVER, NEVER), max(1, last) if total_steps is None else total_steps, windows)
