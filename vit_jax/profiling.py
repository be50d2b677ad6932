"""A trace of some training steps, for XProf (in TensorBoard or alone) and Perfetto."""

import importlib.metadata
import re
import time
from pathlib import Path
from typing import Any, Self

import jax

from vit_jax.errors import UserError
from vit_jax.progress import print_once

DEFAULT = "10:15"  # the first steps fill caches and queues
DIRECTORY = "profile"


def span(text: str) -> tuple[int, int]:
  """Returns the steps of a text such as "10:20": after 10 steps it begins, after 20 it ends.

  Raises:
    UserError: it is no such text, or has no steps.
  """
  match = re.fullmatch(r"(\d+):(\d+)", text)
  if match is None or int(match[1]) >= int(match[2]):
    raise UserError(f"--profile {text}: give the steps as FIRST:LAST, such as {DEFAULT}")
  return int(match[1]), int(match[2])


def check() -> None:
  """Refuses a libtpu that the profiler of this JAX crashes with, though there be no TPU.

  Raises:
    UserError: says which version is needed.
  """
  platforms = jax.config.jax_platforms
  if platforms and "tpu" not in platforms:
    return
  try:
    installed = importlib.metadata.version("libtpu")
  except importlib.metadata.PackageNotFoundError:
    return
  asked = "; ".join(importlib.metadata.requires("jax") or ())
  wanted = re.search(r"libtpu\s*==\s*([\d.]+)", asked)
  if wanted and not f"{installed}.".startswith(f"{wanted[1].strip('.')}."):
    needed = wanted[1].strip(".")
    raise UserError(
      f"--profile: the profiler of jax {jax.__version__} goes with libtpu {needed} and crashes "
      f"with {installed}, which is installed: pip install 'libtpu=={needed}.*', or set "
      "JAX_PLATFORMS=cpu (or cuda) where there is no TPU"
    )


class Trace:
  """Traces a span of the steps that this process trains, once; the first process does so for all.

  Steps are counted from where training (re)starts, so that a run can be traced wherever it is.
  """

  def __init__(self, steps: tuple[int, int] | None, workdir: Path) -> None:
    """Remembers what to trace.

    Args:
      steps: see `span`; None: nothing.
      workdir: the run directory; the trace is written below `profile` in it.
    """
    self._steps, self._directory = steps or (0, 0), workdir / DIRECTORY
    self._first = self._last = 0  # in steps of the run, as soon as it is known where it starts
    self._running, self._done = False, steps is None

  def begin(self, step: int) -> Self:
    """Says where training starts; to be used as a context that ends the trace in any case."""
    self._first, self._last = (step + s for s in self._steps)
    return self

  def __enter__(self) -> Self:
    """Returns the trace."""
    return self

  def __exit__(self, *error: object) -> None:
    """Writes a trace that training did not come to the end of, or says that there is none."""
    if self._running:
      self._stop()
    elif not self._done:
      print_once(f"--profile: not traced, training ended before step {self._first}")

  @property
  def edges(self) -> tuple[int, ...]:
    """The steps at which a call of the devices must end."""
    return () if self._done else (self._first, self._last)

  def at(self, step: int, state: Any) -> float:
    """Starts or ends the trace if this step is the one; returns the seconds that took.

    Args:
      step: steps done.
      state: their result, which the trace waits for; that time is training's and not returned.
    """
    starts = not self._done and not self._running and self._first <= step < self._last
    if not starts and not (self._running and step >= self._last):
      return 0.0
    jax.block_until_ready(state)
    clock = time.perf_counter()
    if starts:
      self._start()
    else:
      self._stop()
    return time.perf_counter() - clock

  def _start(self) -> None:
    self._running = True
    if jax.process_index() == 0:
      options = jax.profiler.ProfileOptions()
      options.python_tracer_level = 0  # every Python call: slow, and more than anyone reads
      jax.profiler.start_trace(
        self._directory, create_perfetto_trace=True, profiler_options=options
      )

  def _stop(self) -> None:
    self._running, self._done = False, True
    if jax.process_index() == 0:
      jax.profiler.stop_trace()
      traces = sorted(self._directory.rglob("perfetto_trace.json.gz"))
      print_once(
        f"trace written: open {traces[-1] if traces else self._directory} at "
        f"https://ui.perfetto.dev, or `pip install xprof && xprof --port 8791 {self._directory}`"
      )
