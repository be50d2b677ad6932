"""Trains what a config asks for: one run, a trunk with its branches, or a ladder of them.

  python -m vit_jax.main --config configs/cifar10_ladder.py --workdir results/cifar10

Every key of the config can be set on the command line:

  --config.optimizer.learning_rate=1e-3  --config.branches=2000,5000  --config.model.name=ViT-S/16

The same command again continues where it stopped, and does nothing that is done already.
"""

if __name__ == "__main__":
  from vit_jax import host_memory

  host_memory.use_huge_pages()  # may start the program again: nothing comes before it

import argparse
import json
import logging
import signal
from collections.abc import Sequence
from pathlib import Path

import jax
import ml_collections

from vit_jax import branches, cli, parallel, profiling, signals, summary, train
from vit_jax import config as config_lib
from vit_jax.errors import UserError
from vit_jax.progress import print_once


def parser() -> argparse.ArgumentParser:
  """Returns the command line."""
  p = argparse.ArgumentParser(
    prog="python -m vit_jax.main",
    description=__doc__,
    allow_abbrev=False,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    epilog="vit_jax/config.py lists every config key with its default, unit and meaning.",
  )
  p.add_argument(
    "--config", required=True, metavar="FILE.py[:ARG]", help="config file with get_config()"
  )
  p.add_argument(
    "--workdir",
    required=True,
    type=Path,
    metavar="DIR",
    help="run directory: checkpoints, measurements.jsonl, TensorBoard events",
  )
  p.add_argument(
    "--rung", metavar="NAME", help="of a config with a ladder: only this rung, in DIR/NAME"
  )
  p.add_argument(
    "--run",
    metavar="NAME",
    help="of one run: call it so and train it in DIR/NAME (see scaling.sweep)",
  )
  part = p.add_mutually_exclusive_group()
  part.add_argument(
    "--trunk_only", action="store_true", help="no branches, only the checkpoints they start from"
  )
  part.add_argument(
    "--branch",
    type=int,
    metavar="STEPS",
    help="only the branch that ends at this step, from the trunk's checkpoint in DIR "
    "(on another machine, say); the same result as without this flag",
  )
  p.add_argument(
    "--list", action="store_true", help="print the plan (runs, branches, steps) and exit"
  )
  p.add_argument(
    "--profile",
    nargs="?",
    const=profiling.DEFAULT,
    metavar="FIRST:LAST",
    help="write a trace of these steps, counted from where training (re)starts, into DIR/profile "
    f"({profiling.DEFAULT} if not given)",
  )
  cli.add_process_flags(p)
  return p


def main(argv: Sequence[str]) -> int:
  """Runs the command; returns its exit code."""
  args, overrides = parser().parse_known_args(argv)
  logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
  rungs = cli.pick_rung(cli.load_rungs(args.config, overrides), args.rung)
  if args.run is not None:
    if len(rungs) > 1:
      raise UserError(f"--run needs --rung: the ladder has {', '.join(rungs)}")
    rungs = {args.run: next(iter(rungs.values()))}
  root = args.workdir.resolve().name
  runs = {
    name: (rung, args.workdir / name, branches.plan(rung.branches, rung.cooldown, rung.total_steps))
    for name, rung in rungs.items()
  }
  if args.branch is not None and len(runs) > 1:
    raise UserError(f"--branch needs --rung: the ladder has {', '.join(rungs)}")
  if args.list:
    _print_plan(runs)
    return 0
  traced = profiling.span(args.profile) if args.profile else None
  parallel.initialize(args.coordinator, args.num_processes, args.process_id)
  if traced:
    profiling.check()
  _check_same(args, rungs)
  failed = []
  with signals.catch() as stop_flag:
    # All of them first: a mistake in the last rung should not show after the others have trained.
    jobs = {
      name: train.prepare(rung, workdir, "/".join(filter(None, (root, name))), args.branch)
      for name, (rung, workdir, _) in runs.items()
    }
    for name, job in jobs.items():
      try:
        train.execute(job, runs[name][1], stop_flag, args.branch, traced, args.trunk_only)
      except train.Diverged as e:
        failed.append(f"{job.name}: {e}")
      except signals.Interrupted as e:
        print_once(str(e))
        return 130 if e.signum == signal.SIGINT else 0
  if jax.process_index() == 0:
    summary.show({workdir: plan for _, workdir, plan in runs.values()})
  if failed:
    raise UserError("; ".join(failed))
  return 0


def _check_same(args: argparse.Namespace, rungs: dict[str, ml_collections.ConfigDict]) -> None:
  """Raises a UserError if the processes of the run are not to do the same."""
  asked = {
    name: {
      k: v for k, v in config_lib.flatten(config_lib.to_json(rung)) if k not in config_lib.HOST_KEYS
    }
    for name, rung in rungs.items()
  }
  if not parallel.all_same(json.dumps([args.branch, args.trunk_only, args.profile, asked])):
    raise UserError(
      "the processes of this run have different configs or flags: start all of them with the same "
      f"command (only config.{', config.'.join(config_lib.HOST_KEYS)} may differ)"
    )


def _print_plan(runs: dict) -> None:
  for name, (rung, workdir, plan) in runs.items():
    print(
      f"{name or workdir.name}: {rung.model.name}, batch {rung.batch_size}, trunk "
      f"{plan.trunk_steps} steps in {workdir}"
    )
    for step, window in plan.branches.items():
      print(f"  branch {step}: cools down from step {window.start}")
    if plan.branches:
      print(f"  {plan.steps} steps in all, instead of {plan.steps_from_scratch} from scratch")


if __name__ == "__main__":
  cli.run(main)
