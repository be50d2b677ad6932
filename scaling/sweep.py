"""Trains a grid of runs with their branches, here or on a Slurm cluster, or prices it beforehand.

Every rung of the config's ladder, with every point of the grid, is a run of its own: one trunk, and
each of its branches as soon as the trunk has passed the checkpoint that the branch starts from.
What is finished is skipped, what was interrupted goes on, and what fails takes nothing with it but
its own branches: the same command again does what is still missing.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import jax

from scaling.launch import display, dryrun, grid, jobs, local, logs, places, rates, slurm
from vit_jax import cli, rundir, summary
from vit_jax.errors import UserError

_EXAMPLES = """\
examples:
  a ladder on this machine, two jobs at a time
    python -m scaling.sweep --config configs/ladder.py --workdir results/ladder --jobs 2

  with three seeds and two learning rates: six runs of every rung
    python -m scaling.sweep --config configs/ladder.py --workdir results/ladder \\
        --grid seed=0,1,2 --grid optimizer.learning_rate=1e-3,3e-3

  what it will cost, before anything is trained
    python -m scaling.sweep --config configs/ladder.py --workdir results/ladder \\
        --dry-run --device v3

  on Slurm, two nodes of eight GPUs for every job; it submits and returns
    python -m scaling.sweep --config configs/ladder.py --workdir results/ladder \\
        --launcher slurm --slurm partition=gpu,nodes=2,gpus_per_node=8,time=1-00:00:00

A run is in DIR/<rung>,<key>=<value>,…, with a file train.log beside its measurements, and so is
each branch in its branches/<steps>. Ctrl-C lets every job save and end; a second one kills them.
Then: python -m scaling.fit DIR
"""

_LAST_LINES = 5  # of the log of a failed job


def parser() -> argparse.ArgumentParser:
  """Returns the command line."""
  p = argparse.ArgumentParser(
    prog="python -m scaling.sweep",
    description=__doc__,
    epilog=_EXAMPLES,
    allow_abbrev=False,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  p.add_argument(
    "--config",
    required=True,
    metavar="FILE.py[:ARG]",
    help="as for vit_jax.main; --config.KEY=VALUE sets a key in all runs",
  )
  p.add_argument("--workdir", required=True, type=Path, metavar="DIR", help="has all the runs")
  p.add_argument(
    "--grid",
    action="append",
    default=[],
    metavar="KEY=VALUE,VALUE,…",
    help="values of a config key, each in runs of its own; several --grid are multiplied. "
    'A value with commas goes in brackets: "branches=(100,200),(400,)"',
  )
  p.add_argument(
    "--only", metavar="PATTERN", help="only the runs of such a name: 'w16*', '*seed=0'"
  )
  plan = p.add_argument_group("the plan, without training")
  plan.add_argument(
    "--dry-run",
    action="store_true",
    help="print runs, branches, steps, training FLOPs, device hours, disk, and what sharing trunks "
    "saves; then exit",
  )
  plan.add_argument(
    "--device",
    metavar="NAME",
    help="whose hours: v2, v3, v4, v5e, v5p, v6e, A100, H100, H200, … (default: what the "
    "measurements below DIR were made on, at their speed)",
  )
  plan.add_argument(
    "--mfu",
    type=float,
    metavar="SHARE",
    help="of the device's peak that training uses (default: as measured below DIR, or else what "
    "published ViTs of the same size reach on TPU v3)",
  )
  plan.add_argument("--json", type=Path, metavar="FILE", help="write the plan there as well")
  p.add_argument("--launcher", choices=("local", "slurm"), default="local", help="default: local")
  here = p.add_argument_group("on this machine")
  here.add_argument(
    "--jobs",
    type=int,
    metavar="N",
    help="processes at a time, among which GPUs and cores are divided "
    "(default: one for each GPU, or else one)",
  )
  cluster = p.add_argument_group("on Slurm")
  cluster.add_argument(
    "--slurm",
    default="",
    metavar="OPTION=VALUE,…",
    help="long options of sbatch for every job: time (needed), partition, account, qos, nodes, "
    "gpus_per_node, cpus_per_task, mem, …; one task a node runs unless tasks_per_node is given. Of "
    "submitit: array_parallelism (jobs of an array at a time), signal_delay_s (before the end of "
    "its time, a job saves)",
  )
  return p


def main(argv: Sequence[str]) -> int:
  """Runs the command; returns its exit code."""
  args, overrides = parser().parse_known_args(argv)
  jax.config.update("jax_platforms", "cpu")  # the devices are for the jobs
  runs = grid.expand(args.config, args.workdir, [grid.axis(text) for text in args.grid], overrides)
  if args.only is not None:
    names = [run.name for run in runs]
    runs = [run for run in runs if fnmatch.fnmatchcase(run.name, args.only)]
    if not runs:
      raise UserError(f"--only {args.only}: the runs are {', '.join(names)}")
  if args.dry_run:
    return _dry_run(runs, args)
  return _submit(runs, args) if args.launcher == "slurm" else _run_here(runs, args)


def _dry_run(runs: list[grid.Run], args: argparse.Namespace) -> int:
  rates_ = rates.Rates(args.workdir, args.device, args.mfu)
  priced = dryrun.price(runs, rates_)
  dryrun.show(priced, rates_)
  if args.json is not None:
    text = json.dumps(dryrun.as_json(priced, rates_), indent=2) + "\n"
    try:
      rundir.write_atomically(args.json, text)
    except OSError as e:
      raise UserError(f"--json {args.json}: cannot write there ({e.strerror})") from e
  return 0


def _submit(runs: list[grid.Run], args: argparse.Namespace) -> int:
  work = jobs.of_runs(runs)
  cluster = slurm.Cluster(args.workdir, slurm.options(args.slurm))
  submitted = cluster.submit(work)
  for label in (job.label for job in work):
    state = submitted.found.get(label)
    print(f"{label}: {state.lower() if state else f'submitted as job {submitted.new[label]}'}")
  if submitted.new:
    arrays = ",".join(dict.fromkeys(name.split("_")[0] for name in submitted.new.values()))
    print(
      f"\n{len(submitted.new)} job(s) submitted. Watch them: squeue --jobs {arrays}; each prints "
      f"into train.log in its run directory, and Slurm into {cluster.folder}. "
      "The same command again tells how they are, and submits what has failed."
    )
  return 0


def _run_here(runs: list[grid.Run], args: argparse.Namespace) -> int:
  work = jobs.of_runs(runs)
  with display.Display() as show:
    launcher = local.Launcher(work, places.find(args.jobs), _environment(args.workdir), show)
    signum = launcher.run()
  entries = launcher.entries
  lines = [f"{args.workdir}: {display.counts(entries)}"]
  if launcher.unshown:
    lines.append(f"not all was shown: stderr could not be written ({launcher.unshown})")
  if signum is not None:
    lines.append(f"{signal.Signals(signum).name} received; the same command goes on from here")
  failed = [e for e in entries if e.state == local.FAILED]
  for entry in failed:
    lines += _failure(entry)
  blocked = [e.job.label for e in entries if e.state == local.BLOCKED]
  if blocked:
    lines.append(f"\nnot started, for their trunk did not come so far: {', '.join(blocked)}")
  unclear = {e.job.run.directory for e in failed if e.error}  # what it measured may be unreadable
  plans = {run.directory: run.plan for run in runs if run.directory not in unclear}
  display.conclude([*lines, *summary.savings(plans)])
  if signum is not None:
    return 130 if signum == signal.SIGINT else 0
  return 1 if failed or blocked else 0


def _environment(workdir: Path) -> dict[str, str]:
  """Returns what all jobs share: the branches of a run need not compile its step again."""
  if "JAX_COMPILATION_CACHE_DIR" in os.environ:
    return {}
  # By machine, for the code is made for its processor.
  return {"JAX_COMPILATION_CACHE_DIR": str(workdir.absolute() / ".compiled" / os.uname().nodename)}


def _failure(entry: local.Entry) -> list[str]:
  alone = f"alone: {entry.job.shown_command()}"
  if entry.error is not None:
    return [f"\n{entry.job.label} failed: {entry.error}; its log is {entry.job.log}", alone]
  how = f"exit status {entry.code}"
  if entry.code < 0:
    how = f"killed by {signal.Signals(-entry.code).name}"
  elif entry.code == 0:
    how = "stopped by somebody else before its end"
  tail = logs.last_lines(entry.job.log, _LAST_LINES, entry.begin)
  head = f"\n{entry.job.label} failed ({how}); {entry.job.log} ends with"
  return [head, *(f"  {line}" for line in tail), alone]


if __name__ == "__main__":
  cli.run(main)
