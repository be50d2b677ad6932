"""What Slurm runs: one job of a sweep, stopped in time, queued again, and gone on with."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

from scaling.launch import logs
from scaling.launch.jobs import Job

_POLL = 2.0  # seconds between two looks at the process, and at what it has saved
_LAST_LINES = 10  # of the log, in the message of a failure
_WANTED_TO_STOP = (0, -signal.SIGTERM, -signal.SIGUSR2)  # exit statuses: saved, or not begun yet


@dataclasses.dataclass
class Task:
  """A job as submitit carries it to a node, where every task (srun's) calls it.

  Attributes:
    job: what to train.
    ids: the file that tells under which id each job of the sweep is queued: label -> id, JSON.
  """

  job: Job
  ids: Path

  def __call__(self) -> str:
    """Trains the job; releases its branches as their checkpoints appear.

    Raises:
      RuntimeError: it has failed, or was stopped before its end. In the latter case it is queued
        again, unless Slurm has done so or somebody has cancelled it.
    """
    first, released = _rank() == 0, set()
    with self._open_log() as log:
      begin = log.tell()
      self._process = subprocess.Popen(
        self.job.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
      )
      while self._process.poll() is None:
        if first:
          self._release(released)
        time.sleep(_POLL)
    code = self._process.returncode
    if code == 0 and (not first or self.job.finished()):
      return f"{self.job.label}: done"
    if code in _WANTED_TO_STOP:
      if first and _slurm_says("squeue", "--noheader", "--format=%T") == "RUNNING":
        _slurm_says("scontrol", "requeue")
      raise RuntimeError(f"{self.job.label} was stopped before its end, with everything saved")
    tail = "\n  ".join(logs.last_lines(Path(log.name), _LAST_LINES, begin))
    raise RuntimeError(
      f"{self.job.label} failed (exit status {code}); {log.name} ends with\n  {tail}\n"
      f"alone: {self.job.shown_command()}"
    )

  def checkpoint(self) -> Any:
    """Lets the process save and end, as the job's time is nearly up; submitit queues it again."""
    from submitit.helpers import DelayedSubmission

    pid = self._process.pid
    if self._process.returncode is None:
      os.kill(pid, signal.SIGTERM)
      # Not by the process's own methods: this interrupts them, and they hold a lock.
      os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return DelayedSubmission(Task(self.job, self.ids))

  def _open_log(self) -> IO[bytes]:
    rank = _rank()
    path = self.job.log if rank == 0 else self.job.log.with_suffix(f".{rank}.log")
    path.parent.mkdir(parents=True, exist_ok=True)
    log = path.open("ab")
    log.write(f"$ {self.job.shown_command()}\n".encode())
    log.flush()
    return log

  def _release(self, released: set[str]) -> None:
    """Lets branches start whose checkpoints are there, rather than when the trunk ends."""
    if not self.job.is_trunk:
      return
    branches = [Job(self.job.run, b) for b in self.job.run.plan.branches]
    due = [b.label for b in branches if b.label not in released and b.ready()]
    if not due:
      return
    ids = read_ids(self.ids)  # the sweep writes it once it has submitted them
    for label in due:
      if label in ids:
        released.add(label)
        command = ["scontrol", "update", f"JobId={ids[label]}", "Dependency="]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        print(f"releases {label} (job {ids[label]}) {done.stderr.strip()}", file=sys.stderr)


def read_ids(path: Path) -> dict[str, str]:
  """Returns under which id each job of a sweep was submitted last: label -> id."""
  return json.loads(path.read_text()) if path.exists() else {}


def _rank() -> int:
  return int(os.environ.get("SLURM_PROCID", 0))


def _job_id() -> str | None:
  """Returns under which id this job alone is in Slurm's queue; None: it is in none."""
  array, element = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
  if array and element:  # SLURM_JOB_ID may be the array's own, which addresses all its elements
    return f"{array}_{element}"
  return os.environ.get("SLURM_JOB_ID")


def _slurm_says(program: str, *arguments: str) -> str:
  """Asks Slurm about, or for, this job; "" when it cannot or will not."""
  job = _job_id()
  if job is None:
    return ""
  command = [program, *arguments, *(("--jobs", job) if program == "squeue" else (job,))]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  return done.stdout.strip()
