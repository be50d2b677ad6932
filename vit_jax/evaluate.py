"""Says what trained models are worth, after their training, and puts many of them in one table.

  python -m vit_jax.evaluate --workdir results/run --evaluators fewshot,corruptions
  python -m vit_jax.evaluate --report results --out table.md

Each evaluator's numbers are appended to the run's measurements.jsonl as soon as it has finished;
those that are there already are not measured again.
"""

import argparse
import dataclasses
import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from vit_jax import (
  cli,
  contrastive,
  evaluators,
  measurements,
  parallel,
  record,
  report,
  rundir,
  trained,
)
from vit_jax.errors import UserError, unknown
from vit_jax.literals import literal
from vit_jax.progress import print_once, seconds
from vit_jax.trained import Trained

_EXAMPLES = """examples:
  python -m vit_jax.evaluate --workdir results/vit results/vit-sam --evaluators corruptions,knn
      types of evaluators with their defaults, or entries of the runs' configs by name
  python -m vit_jax.evaluate --workdir results/vit --evaluators fewshot --fewshot.shots="(1, 5)"
      with other options; the docstrings in vit_jax/evaluators explain them
  python -m vit_jax.evaluate --workdir results/vit --evaluators c=corruptions --c.severities="(5,)"
      under a name of its own, which the metrics then begin with
  python -m vit_jax.evaluate --config configs/transfer.py:cifar10,ViT-B/16 \\
      --config.init_from=B_16.npz --out results/b16 --evaluators fewshot
      weights of another project; their measurement says step 0
  python -m vit_jax.evaluate --report results --out table.md --metrics ".*_error" --mean
      runs in rows and metrics in columns, with a last row of means, and how each was measured
"""


def parser() -> argparse.ArgumentParser:
  """Returns the command line."""
  p = argparse.ArgumentParser(
    prog="python -m vit_jax.evaluate",
    description=__doc__,
    allow_abbrev=False,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    epilog=_EXAMPLES,
  )
  p.add_argument(
    "--workdir", type=Path, nargs="+", metavar="DIR", help="runs, or <run>/branches/<step>"
  )
  p.add_argument(
    "--config",
    metavar="FILE.py[:ARG]",
    help="instead of --workdir: the model, data and config.init_from of this file",
  )
  p.add_argument(
    "--evaluators",
    metavar="NAMES",
    help=f"with commas between: entries of the config, or of {', '.join(evaluators.TYPES)} "
    "(default: those of the config)",
  )
  p.add_argument("--step", type=int, help="of the checkpoint (default: the last)")
  p.add_argument(
    "--batch_size",
    type=int,
    metavar="N",
    help="examples at a time; changes no result (default: the training's batch size)",
  )
  p.add_argument("--again", action="store_true", help="measure anew what is there already")
  p.add_argument("--report", type=Path, metavar="DIR", help="only: a table of the runs below DIR")
  p.add_argument(
    "--metrics", metavar="REGEX", help="of the report (default: the main ones of each evaluator)"
  )
  p.add_argument("--mean", action="store_true", help="a last row with the mean over the runs")
  p.add_argument(
    "--out", type=Path, metavar="PATH", help="with --report: a .md or .csv file; with --config: DIR"
  )
  cli.add_process_flags(p)
  return p


def main(argv: Sequence[str]) -> int:
  """Runs the command; returns its exit code."""
  args, rest = parser().parse_known_args(argv)
  if sum(x is not None for x in (args.workdir, args.config, args.report)) != 1:
    raise UserError("give one of --workdir DIR, --config FILE.py and --report DIR; see --help")
  if args.report is not None:
    if rest:
      raise UserError(f"unexpected '{rest[0]}': --help lists the flags")
    report.write(args.report, args.out, args.metrics, args.mean)
    return 0
  if args.batch_size is not None and args.batch_size < 1:
    raise UserError(f"--batch_size {args.batch_size}: at least one example at a time")
  names = _names(args.evaluators)
  options, overrides = _split(rest, names)
  parallel.initialize(args.coordinator, args.num_processes, args.process_id)
  if args.config:
    rungs = cli.load_rungs(args.config, overrides)
    if len(rungs) > 1 or args.out is None:
      raise UserError("--config needs one without a ladder, and --out DIR for the measurements")
    (config,) = rungs.values()
    model = trained.of_config(config, None, step=args.step, log=print_once)
    with rundir.lock(args.out):
      _evaluate(model, args.out, names, options, args.batch_size, args.again)
    return 0
  if overrides:
    raise UserError(
      f"unexpected '{overrides[0]}': options of evaluators are --NAME.KEY=VALUE, for a NAME among "
      "--evaluators"
    )
  for directory in args.workdir:
    model = trained.of_run(directory, step=args.step)
    with rundir.lock(directory):  # only now: it would make a directory of a mistyped name
      _evaluate(model, directory, names, options, args.batch_size, args.again)
  return 0


def _names(text: str | None) -> dict[str, str]:
  """Returns entry -> type or entry of the config, of "fewshot,c=corruptions"."""
  parts = [p.strip() for p in (text or "").split(",") if p.strip()]
  return {p.split("=")[0]: p.split("=")[-1] for p in parts}


_OPTION = re.compile(r"--([\w-]+)\.(\w+)=(.*)", re.DOTALL)


def _split(
  rest: Sequence[str], names: Mapping[str, str]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
  """Splits flags into options of evaluators and overrides of a config."""
  options: dict[str, dict[str, Any]] = {}
  overrides = []
  for text in rest:
    match = _OPTION.fullmatch(text)
    if match and match[1] in names:
      options.setdefault(match[1], {})[match[2]] = literal(match[3])
    else:
      overrides.append(text)
  return options, overrides


def entries(
  config: Mapping[str, Mapping[str, Any]],
  names: Mapping[str, str],
  options: Mapping[str, Mapping[str, Any]],
) -> dict[str, dict[str, Any]]:
  """Returns the entries to evaluate, as a config's `evaluators` has them.

  Args:
    config: the run's own entries.
    names: new name -> one of these, or a type; empty for all of the run's own.
    options: name -> keys that differ.

  Raises:
    UserError: a name is neither an entry nor a type.
  """
  found = {}
  for name, what in (names or {n: n for n in config}).items():
    if what in config:
      entry = dict(config[what])
    elif what in evaluators.TYPES:
      entry = {"type": what}
    else:
      raise unknown("evaluator", what, {*config, *evaluators.TYPES})
    found[name] = {**entry, **options.get(name, {})}
  return found


def _evaluate(
  model: Trained,
  directory: Path,
  names: Mapping[str, str],
  options: Mapping[str, Mapping[str, Any]],
  batch_size: int | None,
  again: bool,
) -> None:
  job, writer = model.job, measurements.Writer(directory, writes=jax.process_index() == 0)
  chosen = entries(job.config.evaluators.to_dict(), names, options)
  if job.config.contrastive.kind != "none":
    contrastive.check_evaluators(chosen)
  # The config keeps the batch of training, by which images seen are counted.
  context = dataclasses.replace(job.context, batch_size=batch_size or job.context.batch_size)
  wanted = evaluators.make(chosen, context)
  known = measurements.read(directory)
  if any(_is_other(m, model) for m in known):
    raise UserError(
      f"{directory} has measurements of other weights, which a report would take for the same "
      "model: give another --out"
    )
  for name, evaluator in wanted.items():
    protocol = json.loads(json.dumps(evaluators.protocols({name: evaluator})))
    if not again and any(_is_of(m, model, protocol) for m in known):
      print_once(f"{model.name}: {name} is there already ({directory / measurements.FILE_NAME})")
      continue
    begin = time.perf_counter()
    metrics = evaluator(model)
    if not all(map(math.isfinite, metrics.values())):
      raise UserError(f"{directory}: {name} gives {metrics}: not a number that can be kept")
    found = record.measurement(
      dataclasses.replace(job, name=_run_name(known, model)),
      metrics,
      step=model.step or 0,
      seconds=model.seconds,
      entries=[evaluator],
      branch=model.branch,
      final=model.step is None or any(m["final"] and m["step"] == model.step for m in known),
      extra={"data_sha256": job.fingerprint.sha256, "weights_sha256": model.sha256},
    )
    writer.add(_as_trained(found, known))
    print_once(f"{model.name}: {name} took {seconds(time.perf_counter() - begin)}")
    for key in report.main(metrics, [name]):
      print_once(f"  {key:40} {metrics[key]:.4f}")


def _is_other(found: Mapping[str, Any], model: Trained) -> bool:
  """Whether a measurement is of other weights that would go by the same run, branch and step."""
  same = found["step"] == (model.step or 0) and found["branch"] == model.branch
  return same and found["extra"].get("weights_sha256", model.sha256) != model.sha256


def _is_of(found: Mapping[str, Any], model: Trained, protocol: Mapping[str, Any]) -> bool:
  """Whether a measurement is of this step, measured like this."""
  same = found["step"] == (model.step or 0) and found["branch"] == model.branch
  measured = found["extra"].get("protocol", {})
  return same and protocol.items() <= measured.items()


def _as_trained(
  found: measurements.Measurement, known: Sequence[Mapping[str, Any]]
) -> measurements.Measurement:
  """Returns a measurement that says on what the run was trained, as the run's own ones do."""
  here = {"kind": found.device_kind, "count": found.device_count}
  own = [m for m in known if not m["extra"].get(measurements.LATER)]
  if own:
    then = min(own, key=lambda m: abs(m["step"] - found.step))
    kept = {key: then[key] for key in ("device_kind", "device_count", "config_hash")}
    found = dataclasses.replace(found, **kept)
  return dataclasses.replace(found, extra={**found.extra, "measured_on": here})


def _run_name(known: Sequence[Mapping[str, Any]], model: Trained) -> str:
  """Returns the name that the run's own measurements have."""
  return known[0]["run"] if known else model.name


if __name__ == "__main__":
  cli.run(main)
