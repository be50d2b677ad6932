"""Fits the constants of the estimates to what a compiler has said, and shows how far they are off.

  python -m scaling.planner.calibrate results/shapes/compiled.jsonl

The records are those that `scaling.shapes` keeps. Constants of memory and of cycles are fitted each
by least squares of the relative error, none below zero; "left out" is the error for a record by
constants that were fitted to the others.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from scaling import command
from scaling.errors import DataError
from scaling.planner import cache, constants, memory, speed, topology
from scaling.planner.grid import Cell
from scaling.planner.plan import Plan
from vit_jax.devices import GIB

# Of `memory.terms`; the others are what they say.
FITTED = (
  *("kept, none", "kept, none, unrolled", "kept, dots", "kept, dots, unrolled"),
  *("layer", "layer, gradients in parts", "gathered", "one block", "rest"),
)
Row = tuple[dict[str, float], float]  # terms, and what they are to add up to


def read(path: Path) -> list[cache.Record]:
  """Returns records that tell of memory, the last one of each cell.

  Those are of programs that compiled, and of some that did not fit: the compiler says what they
  would have needed.

  Raises:
    DataError: there are not two of them.
  """
  if not path.is_file():
    raise DataError(f"{path}: no such file; scaling.shapes --compile writes one")
  found = {
    json.dumps([record["plan"], record["cell"]]): record
    for record in cache.Cache(path).records()
    if record["hbm"]
  }
  if len(found) < 2:  # each is estimated by the others
    raise DataError(
      f"{path}: tells of the memory of {len(found)} programs, and two are needed; compile more "
      "with scaling.shapes --compile"
    )
  return list(found.values())


def cell_of(record: cache.Record) -> tuple[Plan, Cell]:
  """Returns what a record is of."""
  plan = record["plan"]
  plan = Plan(plan["path"], tuple(plan["overrides"]), plan["classes"])
  return plan, Cell.of_json(record["cell"])


def memory_row(record: cache.Record) -> Row:
  """Returns the terms of a record's memory, and its bytes."""
  plan, cell = cell_of(record)
  return memory.terms(plan.kind(cell.setting.optimizer), cell), record["hbm"]


def speed_row(record: cache.Record) -> Row:
  """Returns the terms of a record's cycles, and the cycles."""
  plan, cell = cell_of(record)
  where = topology.find(cell.setting.topology)
  return speed.terms(plan.kind(cell.setting.optimizer), cell, where), record["cycles"]


def fit(rows: Sequence[Row], names: Sequence[str]) -> dict[str, float]:
  """Returns the constants of the named terms; the others count as they are."""
  matrix = np.array([[terms.get(n, 0.0) / total for n in names] for terms, total in rows])
  rest = [1 - sum(v for k, v in t.items() if k not in names) / total for t, total in rows]
  values, _ = nnls(matrix, np.array(rest))
  return dict(zip(names, values.tolist(), strict=True))


def fit_speed(rows: Sequence[Row]) -> dict[str, float]:
  """Returns the constants of all terms of cycles."""
  return fit(rows, sorted({name for terms, _ in rows for name in terms}))


def predict(terms: dict[str, float], values: dict[str, float]) -> float:
  """Returns the estimate by such constants."""
  return sum(values.get(name, 1.0) * value for name, value in terms.items())


def _errors(rows: Sequence[Row], fitter: Callable[[Sequence[Row]], dict]) -> list[float]:
  """Returns the relative error for each row by constants that were fitted to the others."""
  errors = []
  for i, (terms, total) in enumerate(rows):
    others = [*rows[:i], *rows[i + 1 :]]
    errors.append(predict(terms, fitter(others)) / total - 1)
  return errors


def table(records: Sequence[cache.Record]) -> list[str]:
  """Returns the lines of docs/shapes.md's table: how far the estimates are off, record by record.

  Args:
    records: see `read`.
  """
  left = _errors([memory_row(r) for r in records], lambda rows: fit(rows, FITTED))
  timed = [r for r in records if r["cycles"]]
  slow = [""] * len(timed)
  if len(timed) > 1:
    slow = [f"{e:+.0%}" for e in _errors([speed_row(r) for r in timed], fit_speed)]
  of_timed = dict(zip(map(id, timed), slow, strict=True))
  lines = [
    "| shape | setting | compiler, GiB | estimate | off | left out | M cycles | estimate off "
    "| left out |",
    "|---|---|---:|---:|---:|---:|---:|---:|---:|",
  ]
  for record, out in zip(records, left, strict=True):
    row = [*_names(record), *_memory(record), f"{out:+.1%}", *_cycles(record)]
    lines.append(f"| {' | '.join([*row, of_timed.get(id(record), '')])} |")
  return lines


def _names(record: cache.Record) -> tuple[str, str]:
  """Returns shape and setting, of the latter what is no default."""
  plan, cell = cell_of(record)
  shape, setting = cell.shape, cell.setting
  version = setting.topology.partition(":")[0]
  parts = [version, setting.optimizer, f"batch {setting.batch}"]
  parts += [f"remat {setting.remat}"] * (setting.remat != "full")
  parts += ["unrolled"] * (not plan.kind(setting.optimizer).scan)
  parts += [setting.sharding] * (setting.sharding != "replicated")
  name = f"{shape.depth} x {shape.attention} x {shape.mlp_dim} / {shape.patch_size}"
  return name, ", ".join(parts)


def _memory(record: cache.Record) -> tuple[str, str, str]:
  plan, cell = cell_of(record)
  found, truth = memory.estimate(plan.kind(cell.setting.optimizer), cell), record["hbm"]
  refused = " (refused)" * record["oom"]
  return f"{truth / GIB:.2f}{refused}", f"{found / GIB:.2f}", f"{found / truth - 1:+.1%}"


def _cycles(record: cache.Record) -> tuple[str, str]:
  if not record["cycles"]:
    return "", ""
  plan, cell = cell_of(record)
  where = topology.find(cell.setting.topology)
  found = speed.seconds(plan.kind(cell.setting.optimizer), cell, where) * where.clock
  return f"{record['cycles'] / 1e6:.0f}", f"{found / record['cycles'] - 1:+.0%}"


def _show(records: Sequence[cache.Record]) -> str:
  lines, memories = table(records), [memory_row(r) for r in records]
  lines += ["", f"MEMORY = {_rounded(fit(memories, FITTED))}  now {constants.MEMORY}"]
  if speeds := [speed_row(r) for r in records if r["cycles"]]:
    lines.append(f"SPEED = {_rounded(fit_speed(speeds))}  now {constants.SPEED}")
  return "\n".join(lines)


def _rounded(values: dict[str, float]) -> dict[str, float]:
  return {name: float(f"{value:.3g}") for name, value in values.items()}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns the exit status."""
  parser = command.Parser(
    "scaling.planner.calibrate",
    "Fits the planner's estimates to compiled programs and prints how far they are off.",
    "  python -m scaling.planner.calibrate results/shapes/compiled.jsonl",
  )
  parser.add_argument("path", type=Path, help="compiled.jsonl of scaling.shapes")
  return command.run(parser, lambda options: print(_show(read(options.path))), argv)


if __name__ == "__main__":
  sys.exit(main())
