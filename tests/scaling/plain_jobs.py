"""Jobs of plain Python, for the rules by which a sweep starts and watches processes."""

import dataclasses
import sys
import time

from training import tiny

from scaling.launch import grid, local
from scaling.launch.jobs import Job
from scaling.launch.places import Place
from vit_jax import branches

# A program that trains in a directory, its argument: "held" is printed when it has begun.
HOLDING = """
import pathlib, sys, time
from vit_jax import rundir
directory = pathlib.Path(sys.argv[1])
with rundir.lock(directory):
  print("held", flush=True)
  time.sleep(1)
  (directory / "done").touch()
"""


@dataclasses.dataclass(frozen=True)
class Script(Job):
  """A job that runs Python, and is finished when it has left a file."""

  code: str = ""

  @property
  def label(self):
    return self.run.label

  @property
  def directory(self):
    return self.run.directory

  def command(self):
    return [sys.executable, "-c", f"{self.code}\nopen({str(self.directory / 'done')!r}, 'w')"]

  def finished(self):
    return (self.directory / "done").exists()

  def ready(self):
    return True


def script(directory, code=""):
  config = tiny()
  plan = branches.plan(config.branches, config.cooldown, None)
  return Script(
    grid.Run(directory.name, directory.name, directory, (), config, plan), None, code=code
  )


def launch(jobs, places=1, show=lambda entries: None):
  launcher = local.Launcher(jobs, [Place(None, {})] * places, {}, show)
  return launcher.run(), launcher.entries


def states(entries):
  return [e.state for e in entries]


def wait_for(condition, seconds=300):
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end, "it does not come"
    time.sleep(0.05)
