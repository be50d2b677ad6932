"""Jobs on a Slurm cluster: submitted once, a branch waiting for its trunk's checkpoint."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scaling.launch.jobs import Job
from scaling.launch.task import Task, read_ids
from vit_jax import rundir
from vit_jax.errors import UserError

FOLDER = ".slurm"  # below the sweep's directory: what submitit and Slurm write
_IDS = "jobs.json"
_SIGNAL_DELAY = 120  # seconds before the time is up at which a job is told to save

# Of submitit's own parameters, those that it calculates with; all others are sbatch's.
_NUMBERS = ("nodes", "ntasks_per_node", "cpus_per_task", "array_parallelism", "signal_delay_s")


@dataclasses.dataclass(frozen=True)
class Submitted:
  """What became of each job: its label with "finished", a state of Slurm's queue, or its new id."""

  found: dict[str, str]
  new: dict[str, str]


def options(text: str) -> dict[str, Any]:
  """Reads "partition=gpu,nodes=2,time=1-00:00:00": long options of sbatch; commas separate them.

  Returns:
    submitit's parameters.

  Raises:
    UserError: it is not of this form, or has no time.
  """
  given: dict[str, str] = {}
  for item in filter(None, text.split(",")):
    key, _, value = item.partition("=")
    key = key.strip().lstrip("-").replace("-", "_")
    given["ntasks_per_node" if key == "tasks_per_node" else key] = value.strip()
  if not given.get("time"):
    raise UserError(
      "--slurm needs time=…, as sbatch takes it (minutes, H:MM:SS, D-HH:MM:SS): the time after "
      "which a job saves and goes to the queue again"
    )
  minutes = _minutes(given.pop("time"))
  numbers = {"nodes": 1, "ntasks_per_node": 1}
  numbers["signal_delay_s"] = min(_SIGNAL_DELAY, minutes * 60 // 4)
  for key in _NUMBERS:
    if key in given:
      value = given.pop(key)
      if not value.isdigit():
        raise UserError(f"--slurm {key}={value}: a whole number")
      numbers[key] = int(value)
  srun = ["--kill-on-bad-exit=1"]  # of several tasks, none waits for one that is gone
  if "cpus_per_task" in numbers:
    srun.append(f"--cpus-per-task={numbers['cpus_per_task']}")
  # A job whose trunk fails is taken from the queue; one whose node fails goes back to it.
  extra = {"requeue": True, "kill_on_invalid_dep": "yes"}
  extra |= {key: value or True for key, value in given.items()}
  return {
    "time": minutes,
    **numbers,
    "stderr_to_stdout": True,
    "srun_args": srun,
    "additional_parameters": extra,
  }


def _minutes(text: str) -> int:
  """Reads a time as sbatch does: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S."""
  match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
  if not match:
    raise UserError(f"--slurm time={text}: minutes, H:MM:SS or D-HH:MM:SS")
  days, *rest = match.groups()
  parts = [int(p) for p in rest if p is not None]
  if days is not None:
    hours, minutes, seconds = (parts + [0, 0])[:3]
  elif len(parts) == 3:
    hours, minutes, seconds = parts
  else:
    hours, (minutes, seconds) = 0, (parts + [0])[:2]
  return max(1, -(-(((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds) // 60))


class Cluster:
  """The jobs of one sweep on Slurm."""

  def __init__(self, workdir: Path, parameters: dict[str, Any]) -> None:
    """Prepares to submit.

    Args:
      workdir: of the sweep, on a disk that the nodes see as well.
      parameters: see `options`.

    Raises:
      UserError: this is no machine of a Slurm cluster, or submitit is not installed.
    """
    if not all(map(shutil.which, ("sbatch", "squeue", "srun"))):
      raise UserError("--launcher slurm: there is no sbatch here; log in to a node of the cluster")
    try:
      import submitit
    except ImportError:
      raise UserError("--launcher slurm needs submitit: pip install 'vit-scaling[slurm]'") from None
    self.folder = (workdir / FOLDER).absolute()
    if "%" in str(self.folder):
      raise UserError(f"--workdir {workdir}: Slurm would replace the % in its files' names")
    self._submitit = submitit
    self._parameters = {"job_name": workdir.resolve().name, **parameters}

  def submit(self, jobs: Sequence[Job]) -> Submitted:
    """Submits what is neither finished nor in the queue.

    Trunks and single runs are one array. The branches of a trunk are one as well, which depends on
    it; the trunk takes the dependency off each branch when its checkpoint is there.

    Raises:
      UserError: another sweep is submitting into the same directory, or Slurm refuses.
    """
    with rundir.lock(self.folder):
      path = self.folder / _IDS
      ids, queue = read_ids(path), _queue()
      found = {}
      for job in jobs:
        if job.finished():
          found[job.label] = "finished"
        elif ids.get(job.label) in queue:
          found[job.label] = queue[ids[job.label]]
      new: dict[str, str] = {}
      for group, trunk in _groups([job for job in jobs if job.label not in found]):
        submitted = self._submit(group, trunk and ids[trunk.label])
        ids |= submitted
        new |= submitted
        rundir.write_atomically(path, json.dumps(ids, indent=2) + "\n")
      return Submitted(found, new)

  def _submit(self, jobs: Sequence[Job], trunk: str | None) -> dict[str, str]:
    """Submits jobs as one array, which depends on a trunk's id; returns their ids."""
    # Its time may be up any number of times.
    executor = self._submitit.SlurmExecutor(self.folder, max_num_timeout=1_000_000)
    executor.update_parameters(**self._parameters)
    if trunk:
      executor.update_parameters(dependency=f"afterok:{trunk}")
    errors = self._submitit.core.utils
    try:
      with executor.batch():
        handles = [executor.submit(Task(job, self.folder / _IDS)) for job in jobs]
    except (errors.FailedJobError, errors.FailedSubmissionError) as e:
      lines = [line for line in str(e).splitlines() if "error" in line.lower()]
      raise UserError(f"sbatch refuses: {lines[-1] if lines else e}") from None
    return {job.label: handle.job_id for job, handle in zip(jobs, handles, strict=True)}


def _groups(missing: Sequence[Job]) -> list[tuple[list[Job], Job | None]]:
  """Returns the jobs that are submitted together, with the trunk that they wait for."""
  ready = [job for job in missing if job.branch is None or job.ready()]
  waiting: dict[str, list[Job]] = {}
  for job in missing:
    if job not in ready:
      waiting.setdefault(job.run.name, []).append(job)
  groups = [(group, Job(group[0].run, None)) for group in waiting.values()]
  return [(ready, None), *groups] if ready else groups


def _queue() -> dict[str, str]:
  """Returns the state of every job that is in Slurm's queue, by id."""
  command = ["squeue", "--noheader", "--array", "--me", "--format=%i %T"]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  if done.returncode:
    raise UserError(f"squeue: {done.stderr.strip() or 'it failed'}")
  return dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if line.strip())
