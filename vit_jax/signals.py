"""Ctrl-C and the signals of schedulers end a run at the next step, with everything saved."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import jax

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

# Calls of `StopFlag.requested` between two times that the processes of a run ask each other.
AGREE_EVERY = 10


class StopFlag:
  """Whether a signal has asked this run to stop."""

  signum: int | None = None
  _asked = 0
  _agreed = False

  def requested(self) -> bool:
    """Whether to stop; all processes get the same answer, for they ask equally often."""
    if jax.process_count() == 1:
      return self.signum is not None
    self._asked += 1
    if self._asked % AGREE_EVERY == 0 and not parallel.all_agree(self.signum is None):
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
