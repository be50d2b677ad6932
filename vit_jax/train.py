"""The training loop: one trunk, then its cooldown branches, each step done once.

A state is found in this order: this run's last checkpoint (resume), the trunk's (branch), the
weights that `config.init_from` names, the seed; see start.py.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from tensorboardX import SummaryWriter

from vit_jax import (
  branches,
  chunks,
  devices,
  measurements,
  parallel,
  report,
  rundir,
  signals,
  start,
)
from vit_jax import job as job_lib
from vit_jax.branches import Window
from vit_jax.checkpoint import Checkpoints
from vit_jax.errors import UserError
from vit_jax.job import Job
from vit_jax.meter import Meter
from vit_jax.profiling import Trace
from vit_jax.progress import Reporter, print_once
from vit_jax.record import measurement
from vit_jax.state import TrainState

# Calls that may be under way on the devices: enough to keep them busy, few enough that their
# batches fit.
MAX_AHEAD = 4

# The number of steps of a call, and their metrics: scalars, or arrays that are at least so long.
Pending = list[tuple[int, dict[str, jax.Array]]]


@contextmanager
def _events(directory: Path) -> Iterator[SummaryWriter | None]:
  """Yields a TensorBoard writer on process 0, None on the others."""
  if jax.process_index() != 0:
    yield None
    return
  with SummaryWriter(str(directory)) as writer:
    yield writer


class Diverged(UserError):
  """The loss, the gradient or the parameters are no longer finite."""

  def __init__(self, what: str, last_good: int) -> None:
    """Remembers the step of the last checkpoint, whose parameters are finite."""
    self.last_good = last_good
    kept = f"its checkpoint at step {last_good} is kept" if last_good else "it had none to keep"
    super().__init__(
      f"{what}: the run stops, {kept}; lower the learning rate or lengthen the "
      "warm-up, in a new --workdir"
    )


def run(
  config: ml_collections.ConfigDict, workdir: Path, name: str, branch: int | None = None
) -> None:
  """Trains what a config asks for and `workdir` does not hold yet.

  Args:
    config: see `vit_jax.config`.
    workdir: the run directory; created, or continued.
    name: how the run is called in its measurements.
    branch: train this branch alone, from the trunk's checkpoint, with the same result.

  Raises:
    UserError: a mistake in the config or the directory; `Diverged`, after the last good
      checkpoint.
    signals.Interrupted: SIGTERM or Ctrl-C, after saving.
  """
  with signals.catch() as stop_flag:
    execute(prepare(config, workdir, name, branch), workdir, stop_flag, branch)


def prepare(
  config: ml_collections.ConfigDict, workdir: Path, name: str, branch: int | None = None
) -> Job:
  """Builds a run and checks it against its directory, before anything is trained or written.

  Args and errors: see `run`.
  """
  rundir.check_config(workdir, config)
  job = job_lib.build(config, name)
  if branch is not None:
    if branch not in job.plan.branches:
      raise UserError(f"--branch {branch} is none of config.branches={tuple(config.branches)}")
    if not (workdir / rundir.CONFIG_FILE).exists():
      raise UserError(f"{workdir} holds no trunk to branch off: run without --branch first")
  if jax.process_count() > 1:
    images = f"{job.fingerprint.sha256} {len(job.source)}"
    if not parallel.all_same(images):
      raise UserError(
        f"the processes of this run see different training images (here {len(job.source)}, "
        f"sha256 {job.fingerprint.sha256}): give all of them the same copy of config.data"
      )
  start.check(job, workdir)
  return job


def execute(
  job: Job,
  workdir: Path,
  stop_flag: signals.StopFlag,
  branch: int | None = None,
  traced: tuple[int, int] | None = None,
  trunk_only: bool = False,
) -> None:
  """Trains what `prepare` has built; see `run`.

  Args and errors: there; and
    traced: the steps to write a trace of, see `profiling.Trace`.
    trunk_only: leave the branches to other processes.
  """
  trace = Trace(traced, workdir)
  if branch is not None:
    _run_branch(job, workdir, branch, stop_flag, trace)
    return
  with rundir.lock(workdir):
    rundir.check_config(workdir, job.config)  # again: another process may have been faster
    rundir.write_config(workdir, job.config)
    diverged = None
    try:
      _train_segment(job, workdir, job.plan.trunk, job.plan.trunk_steps, stop_flag, trace)
    except Diverged as e:
      diverged = e  # the branches that leave the trunk before that step are still worth their while
    for step, window in job.plan.branches.items():
      if trunk_only or (diverged and window.start > diverged.last_good):
        continue
      try:
        _run_branch(job, workdir, step, stop_flag, trace)
      except rundir.Locked as e:
        print_once(f"{job.name}: branch {step} is left to the process that trains it ({e})")
    if diverged:
      raise diverged


def _run_branch(
  job: Job, workdir: Path, step: int, stop_flag: signals.StopFlag, trace: Trace
) -> None:
  directory = branches.directory(workdir, step)
  window = job.plan.branches[step]
  with rundir.lock(directory):
    if any(m["final"] for m in measurements.read(directory)):
      return
    rundir.write_config(directory, job.config)
    _train_segment(job, directory, window, window.end, stop_flag, trace, trunk=workdir)


def _train_segment(
  job: Job,
  directory: Path,
  window: Window,
  stop: int,
  stop_flag: signals.StopFlag,
  trace: Trace,
  trunk: Path | None = None,
) -> None:
  """Trains one run directory up to step `stop`: a trunk, or (where it has one) a branch of it."""
  config, is_branch = job.config, trunk is not None
  record = measurements.Writer(directory, writes=jax.process_index() == 0)
  ends = is_branch or not job.plan.branches  # the last step's model is a result
  forks = () if is_branch else job.plan.fork_steps
  shared = window.start if is_branch else 0  # up to there the trunk's measurements hold
  label = f"{job.name}@{stop}" if is_branch else job.name
  intervals = (
    config.log_every,
    config.checkpoint_every,
    *(e.every for e in job.evaluators.values()),
  )

  def due(step: int) -> list[str]:
    """Returns the evaluators whose turn it is and whose measurement is not on the disk."""
    return [
      name
      for name, e in job.evaluators.items()
      if step not in record
      and ((ends and step == stop) or (e.every and step > shared and step % e.every == 0))
    ]

  checkpoints = Checkpoints(directory, keep=forks)
  try:
    step = checkpoints.latest()
    if step is not None and step >= stop and not due(step):
      return
    begin = start.find(job, checkpoints, window, trunk)
    state, step, seconds = begin.state, begin.step, begin.seconds
    # With what the run began, which its config names but does not tell.
    origin = {"data_sha256": job.fingerprint.sha256}
    if begin.init_sha256 is not None:
      origin["init_sha256"] = begin.init_sha256
    if job.teacher is not None:
      origin["teacher_sha256"] = job.teacher.sha256
    del begin  # its state is donated
    train_step, feed = job.train_step, job.feed(step)
    pending: Pending = []
    most = 1  # steps in a call; more as soon as their speed is known
    stop_flag.pace()
    with (
      Reporter(label, step, stop) as reporter,
      _events(directory) as events,
      trace.begin(step),
    ):
      if events is not None:
        events.add_scalar("train/compile_seconds", job.compile_seconds, step)
      meter, clock = _meter(job, step), time.perf_counter()
      while True:
        # What a checkpoint or a measurement says must be about finite numbers.
        stopping = stop_flag.requested()
        save = step > 0 and (
          step in forks or step == stop or stopping or step % config.checkpoint_every == 0
        )
        names = due(step)
        if save or names:
          _check_finite(pending, step, checkpoints)
          jax.block_until_ready(state)
          now = time.perf_counter()
          seconds += (now - clock) * jax.device_count()
          if not np.isfinite(_norm(state.params)):
            raise Diverged(
              f"{label}, step {step}: parameters that are not finite", checkpoints.latest() or 0
            )
          if save:
            checkpoints.save(
              state,
              step,
              {"device_seconds": seconds, "config_hash": job.config_hash, **origin},
            )
          if names:
            _measure(
              job,
              record,
              checkpoints,
              state,
              step,
              seconds,
              names,
              origin,
              branch=stop if is_branch else None,
              final=ends and step == stop,
            )
          clock = time.perf_counter()
          meter.pause(clock - now)
        if stopping:
          checkpoints.wait()
          raise signals.Interrupted(stop_flag.signum, step)
        if step >= stop:
          break

        spent = trace.at(step, state)
        meter.pause(spent)
        clock += spent
        count = min(most, chunks.to_next(step, (*forks, *trace.edges, stop), intervals))
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
          with meter.waiting():
            batch = feed(count)
          state, metrics = train_step(state, batch)
        pending.append((count, metrics))
        step += count
        if len(pending) > MAX_AHEAD:
          jax.block_until_ready(pending[-MAX_AHEAD])
        if step % config.log_every == 0 or step == stop:
          shown = {**_check_finite(pending, step, checkpoints), **meter.read(step)}
          reporter.log(step, shown)
          pending = []
          most = chunks.length(shown["seconds_per_step"], job.most_steps)
          stop_flag.pace(most * shown["seconds_per_step"])
          for key, value in shown.items():
            if events is not None:
              events.add_scalar(f"train/{key}", value, step)
    checkpoints.wait()
  finally:
    checkpoints.close()


def _meter(job: Job, step: int) -> Meter:
  """Returns what measures the speed of a run from a step on."""
  peak = devices.peak_flops(jax.devices()[0].device_kind, jnp.dtype(job.model.dtype).name)
  return Meter(
    step,
    job.config.batch_size,
    flops=job.forward_passes * job.flops_per_image,
    peak=peak and peak * jax.device_count(),
  )


_norm = jax.jit(optax.tree.norm)


def _check_finite(pending: Pending, step: int, checkpoints: Checkpoints) -> dict[str, float]:
  """Returns the mean loss and norm and the last rate of the last steps; waits for them.

  Raises:
    Diverged: names the first step whose loss or gradient was not finite.
  """
  if not pending:
    return {}
  parts = [(count, jax.device_get(metrics)) for count, metrics in pending]
  loss, norm, rate = (
    np.concatenate([np.atleast_1d(metrics[key])[:count] for count, metrics in parts])
    for key in ("loss", "grad_norm", "learning_rate")
  )
  bad = np.flatnonzero(~(np.isfinite(loss) & np.isfinite(norm)))
  if len(bad):
    i = bad[0]
    raise Diverged(
      f"step {step - len(loss) + i + 1}: loss {loss[i]:g}, gradient norm {norm[i]:g}, "
      f"learning rate {rate[i]:g}",
      checkpoints.latest() or 0,
    )
  return {
    "loss": float(np.mean(loss)),
    "grad_norm": float(np.mean(norm)),
    "learning_rate": float(rate[-1]),
  }


def _measure(
  job: Job,
  record: measurements.Writer,
  checkpoints: Checkpoints,
  state: TrainState,
  step: int,
  seconds: float,
  names: list[str],
  origin: dict[str, str],
  *,
  branch: int | None,
  final: bool,
) -> None:
  """Evaluates a state and writes the measurement, after the checkpoint that it speaks of."""
  metrics: dict[str, float] = {}
  averages = {f"{name}_": view for name, view in job.averages.views(state).items()}
  # All of one state together: they share what they compute of it.
  for prefix, view in {"": state, **averages}.items():
    for name in names:
      metrics |= {f"{prefix}{key}": v for key, v in job.evaluators[name](view).items()}
  for key, value in metrics.items():
    if not np.isfinite(value):
      raise Diverged(f"step {step}: {key} is {value}", checkpoints.latest() or 0)
  checkpoints.wait()
  record.write(
    measurement(
      job,
      metrics,
      step=step,
      seconds=seconds,
      entries=[job.evaluators[name] for name in names],
      branch=branch,
      final=final,
      extra=origin,
    )
  )
  shown = "  ".join(f"{k} {metrics[k]:.4f}" for k in report.main(metrics, names))
  print_once(f"{job.name}{f'@{branch}' if branch else ''}  step {step}: {shown}")
