"""Jobs as processes of this machine: so many at a time, each a failure or success of its own."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence

from scaling.launch import logs
from scaling.launch.jobs import Job
from scaling.launch.places import Place
from vit_jax import rundir, signals
from vit_jax.errors import UserError

WAITING, RUNNING, ELSEWHERE = "waiting", "running", "elsewhere"
SKIPPED, DONE, STOPPED, FAILED, BLOCKED = "skipped", "done", "stopped", "failed", "blocked"

_POLL = 0.2  # seconds between two looks at the processes
_LOOK_AGAIN = 5.0  # seconds between two looks at what another process trains


@dataclasses.dataclass
class Entry:
  """A job and what has become of it.

  Attributes:
    job: the job.
    state: one of the words above. "elsewhere" is a job that another process trains now, "skipped"
      one that was finished before, "blocked" one whose trunk did not come to where it starts.
    process: its process, while it runs.
    place: where that is.
    code: the exit status of the process.
    error: why it failed, where that is no matter of its process.
    begin: where in the log its lines begin.
    since: when the state began, in seconds of the monotonic clock.
  """

  job: Job
  state: str = WAITING
  process: subprocess.Popen | None = None
  place: Place | None = None
  code: int | None = None
  error: str | None = None
  begin: int = 0
  since: float = dataclasses.field(default_factory=time.monotonic)

  def become(self, state: str) -> None:
    """Changes the state."""
    self.state, self.since = state, time.monotonic()

  def fail(self, error: Exception) -> None:
    """Lets it have failed for this reason."""
    self.error = str(error)
    self.become(FAILED)

  def progress(self) -> logs.Progress | None:
    """Returns what its process says last."""
    return logs.progress(self.job.log, self.begin) if self.process else None


class Launcher:
  """Runs jobs in places until none is left that can run, or a signal stops it.

  Attributes:
    entries: the jobs and what has become of them.
    unshown: what kept `show` from showing them; it was not called again. None: nothing.
  """

  unshown: OSError | None = None

  def __init__(
    self,
    jobs: Sequence[Job],
    places: Sequence[Place],
    environment: dict[str, str],
    show: Callable[[list[Entry]], None],
  ) -> None:
    """Takes the jobs in the order in which they should start.

    Args:
      jobs: the jobs; a branch waits until its trunk has passed where it starts.
      places: as many run at a time.
      environment: of all processes.
      show: called often with all entries, until it raises an OSError.
    """
    self.entries = [Entry(job, SKIPPED if job.finished() else WAITING) for job in jobs]
    self._free = list(places)
    self._environment = environment
    self._show = show

  def run(self) -> int | None:
    """Runs the jobs; returns the signal that stopped it, None when all has been tried.

    SIGTERM and the first Ctrl-C let every process save and end; a second Ctrl-C kills them.
    """
    told = False
    with signals.catch() as flag:
      try:
        while True:
          self._reap(stopping=flag.requested())
          if flag.requested():
            if not told:
              self._signal(signal.SIGTERM)
            told = True
          else:
            self._start()
          self._show_entries()
          if not self._under_way() or (told and not self._running()):
            break
          time.sleep(_POLL)
      except BaseException:
        self._signal(signal.SIGKILL)
        for entry in self._running():
          entry.process.wait()
        raise
    for entry in self.entries:
      if entry.state in (WAITING, ELSEWHERE):
        entry.become(STOPPED if told else BLOCKED)
    self._show_entries()
    return flag.signum

  def _show_entries(self) -> None:
    if self.unshown is None:
      try:
        self._show(self.entries)
      except OSError as e:  # Ctrl-C ends the reader of a pipe as well, and jobs are yet to save
        self.unshown = e

  def _running(self) -> list[Entry]:
    return [e for e in self.entries if e.process]

  def _under_way(self) -> bool:
    return any(e.process or e.state == ELSEWHERE for e in self.entries)

  def _start(self) -> None:
    for entry in self.entries:
      if not self._free:
        return
      if entry.state == ELSEWHERE and time.monotonic() - entry.since < _LOOK_AGAIN:
        continue
      if entry.state in (WAITING, ELSEWHERE):
        try:
          self._start_if_ready(entry)
        except (OSError, UserError) as e:
          if not entry.process:  # else it runs, if with more cores than its share
            entry.fail(e)

  def _start_if_ready(self, entry: Entry) -> None:
    if not entry.job.ready():
      return
    if rundir.holder(entry.job.directory):
      entry.become(ELSEWHERE)
    elif entry.state == ELSEWHERE and entry.job.finished():
      entry.become(DONE)
    else:
      self._start_one(entry)

  def _start_one(self, entry: Entry) -> None:
    place, log = self._free[0], entry.job.log
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as f:
      f.write(f"$ {entry.job.shown_command()}\n".encode())
      f.flush()
      entry.begin = f.tell()
      entry.process = subprocess.Popen(
        entry.job.command(),
        stdin=subprocess.DEVNULL,
        stdout=f,
        stderr=subprocess.STDOUT,
        env={**os.environ, **self._environment, **place.environment},
        start_new_session=True,  # the terminal's Ctrl-C is for this process to pass on
      )
      entry.place = self._free.pop(0)
      entry.become(RUNNING)
    if place.cores:
      os.sched_setaffinity(entry.process.pid, place.cores)  # its threads are yet to come

  def _reap(self, stopping: bool) -> None:
    for entry in self._running():
      code = entry.process.poll()
      if code is None:
        continue
      entry.process, entry.code = None, code
      self._free.append(entry.place)
      try:
        entry.become(self._outcome(entry, stopping))
      except (OSError, UserError) as e:
        entry.fail(e)

  def _outcome(self, entry: Entry, stopping: bool) -> str:
    # Whoever holds it may finish and let go at any time: this order misses neither.
    held = entry.code != 0 and rundir.holder(entry.job.directory) is not None
    if entry.job.finished():
      return DONE
    if held:
      return ELSEWHERE  # somebody took it while this process was starting
    return STOPPED if stopping and entry.code <= 0 else FAILED

  def _signal(self, signum: int) -> None:
    for entry in self._running():
      if entry.process.poll() is None:
        if signum == signal.SIGKILL:
          os.killpg(entry.process.pid, signum)  # with whatever it has started
        else:
          entry.process.send_signal(signum)
