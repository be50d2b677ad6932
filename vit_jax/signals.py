"""Ctrl-C and the signals of schedulers end a run at the next step, with everything saved."""

import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import jax
import numpy as np

from vit_jax import parallel


class Interrupted(Exception):  # noqa: N818  (no error: the run was asked to stop, and did)
  """The run stopped at a step boundary on a signal; its checkpoint is on the disk."""

  def __init__(self, signum: int, step: int) -> None:
    """Remembers which signal, and the step that was saved."""
    self.signum, self.step = signum, step
    saved = f"saved at step {step}" if step else "nothing to save yet"
    super().__init__(
      f"{signal.Signals(signum).name} received: {saved}; the same command continues from there"
    )


# What schedulers send before they take a machine away: SIGTERM, or one of the others as Slurm does
# when it is told to (`--signal`).
NOTICES = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

# The processes of a run ask each other for signals about so often, but not at every short call of
# `StopFlag.requested`, for asking waits for what the devices still have to do.
SECONDS = 2.0
MOST_CALLS = 10


class StopFlag:
  """Whether a signal has asked this run to stop."""

  signum: int | None = None
  _unasked = 0
  _every = 1
  _agreed = False

  def pace(self, seconds: float = math.inf) -> None:
    """Says how long it is from one `requested` to the next, unknown at first; all processes must.

    Args:
      seconds: as this process measures it; that of the first process counts.
    """
    self._every = parallel.of_first(int(np.clip(SECONDS / seconds, 1, MOST_CALLS)))

  def requested(self) -> bool:
    """Whether to stop; all processes get the same answer, for they ask equally often."""
    if jax.process_count() == 1:
      return self.signum is not None
    self._unasked += 1
    if self._unasked < self._every:
      return self._agreed
    self._unasked = 0
    if not parallel.all_agree(self.signum is None):
      self.signum = self.signum or signal.SIGTERM
      self._agreed = True
    return self._agreed


@contextmanager
def catch() -> Iterator[StopFlag]:
  """Yields the flag that `NOTICES` and the first Ctrl-C set; a second Ctrl-C interrupts at once.

  A second notice changes nothing: it is repeated by schedulers while a run still saves.
  """
  flag = StopFlag()

  def handle(signum: int, frame: FrameType | None) -> None:
    del frame
    if signum == signal.SIGINT and flag.signum is not None:
      raise KeyboardInterrupt
    flag.signum = signum

  before = {s: signal.signal(s, handle) for s in (signal.SIGINT, *NOTICES)}
  try:
    yield flag
  finally:
    for s, old in before.items():
      signal.signal(s, old)
