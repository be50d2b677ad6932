"""SIGTERM (preemption) and Ctrl-C end a run at the next step, with everything saved."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import jax
from jax.experimental import multihost_utils


class Interrupted(Exception):  # noqa: N818  (no error: the run was asked to stop, and did)
  """The run stopped at a step boundary on a signal; its checkpoint is on the disk."""

  def __init__(self, signum: int, step: int) -> None:
    """Remembers which signal, and the step that was saved."""
    self.signum, self.step = signum, step
    saved = f"saved at step {step}" if step else "nothing to save yet"
    super().__init__(
      f"{signal.Signals(signum).name} received: {saved}; the same command continues from there"
    )


class StopFlag:
  """Whether a signal has asked this run to stop."""

  signum: int | None = None
  _asked = 0  # JAX wants a count that only grows; steps start anew with each branch

  def requested(self) -> bool:
    """Whether to stop; all processes get the same answer, for they ask equally often."""
    if jax.process_count() > 1:
      self._asked += 1
      if multihost_utils.reached_preemption_sync_point(self._asked):
        self.signum = self.signum or signal.SIGTERM
        return True
      return False
    return self.signum is not None


@contextmanager
def catch() -> Iterator[StopFlag]:
  """Yields the flag that SIGTERM and the first Ctrl-C set; a second one interrupts at once.

  With several processes SIGTERM is left to JAX, which tells all of them at which step to stop.
  """
  flag = StopFlag()

  def handle(signum: int, frame: FrameType | None) -> None:
    del frame
    if flag.signum is not None:
      raise KeyboardInterrupt
    flag.signum = signum

  caught = (signal.SIGINT, signal.SIGTERM) if jax.process_count() == 1 else ()
  before = {s: signal.signal(s, handle) for s in caught}
  try:
    yield flag
  finally:
    for s, old in before.items():
      signal.signal(s, old)
