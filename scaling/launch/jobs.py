"""The pieces of a run that are processes of their own: its trunk, and each of its branches."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

from scaling.launch.grid import Run
from vit_jax import branches, measurements
from vit_jax.checkpoint import DIRECTORY
from vit_jax.rundir import CONFIG_FILE

LOG_FILE = "train.log"


@dataclasses.dataclass(frozen=True)
class Job:
  """A trunk or single run (`branch` is None), or the branch that ends at a step."""

  run: Run
  branch: int | None

  @property
  def label(self) -> str:
    """What it is called in tables, and in its own log."""
    return self.run.label if self.branch is None else f"{self.run.label}@{self.branch}"

  @property
  def is_trunk(self) -> bool:
    """Whether branches leave it."""
    return self.branch is None and bool(self.run.plan.branches)

  @property
  def directory(self) -> Path:
    """Its run directory."""
    run = self.run
    return run.directory if self.branch is None else branches.directory(run.directory, self.branch)

  @property
  def log(self) -> Path:
    """The file that has what it prints."""
    return self.directory / LOG_FILE

  @property
  def start(self) -> int:
    """The step at which it begins when nothing of it is there."""
    return 0 if self.branch is None else self.run.plan.branches[self.branch].start

  @property
  def stop(self) -> int:
    """The step at which it ends."""
    return self.run.plan.trunk_steps if self.branch is None else self.branch

  def command(self) -> list[str]:
    """Returns the command that trains it, and continues it where it stopped."""
    part = ["--trunk_only"] if self.is_trunk else []
    if self.branch is not None:
      part = ["--branch", str(self.branch)]
    return [sys.executable, "-m", "vit_jax.main", *part, *self.run.flags]

  def shown_command(self) -> str:
    """Returns the command as a person would type it."""
    return shlex.join(["python", *self.command()[1:]])

  def reached(self) -> int:
    """Returns the step of its last checkpoint, 0 without one."""
    return reached(self.directory)

  def ready(self) -> bool:
    """Whether it can start: at once, or as soon as its trunk has passed its first step."""
    if self.branch is None:
      return True
    trunk = self.run.directory
    return (trunk / CONFIG_FILE).exists() and reached(trunk) >= self.start

  def finished(self) -> bool:
    """Whether all is on the disk that it is to leave; tells without starting a process."""
    records = measurements.read(self.directory)
    if not self.is_trunk:
      return any(m["final"] for m in records)
    due = any(
      e.get("every") and self.stop % e["every"] == 0 for e in self.run.config.evaluators.values()
    )
    if due and all(m["step"] != self.stop for m in records):
      return False
    # Somebody may have deleted the checkpoints of a trunk that has served.
    served = self.stop == max(self.run.plan.fork_steps) and all(
      Job(self.run, b).finished() for b in self.run.plan.branches
    )
    return served or self.reached() >= self.stop


def reached(directory: Path) -> int:
  """Returns the step of the last complete checkpoint of a run directory, 0 without one."""
  found = (directory / DIRECTORY).glob("[0-9]*")
  return max((int(p.name) for p in found if p.name.isdigit()), default=0)


def of_runs(runs: Iterable[Run]) -> list[Job]:
  """Returns the jobs of all runs: each trunk, followed by its branches from the shortest on."""
  return [Job(run, part) for run in runs for part in (None, *run.plan.branches)]
