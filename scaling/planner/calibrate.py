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
from scaling.planner import cache, constants, memory, report, speed, topology
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
    DataError: there are none.
  """
  if not path.is_file():
    raise DataError(f"{path}: no such file; scaling.shapes --compile writes one")
  found = {}
  for line in path.read_text().splitlines():
    record = json.loads(line)
    if record["hbm"]:
      found[json.dumps([record["plan"], record["cell"]])] = record
  if not found:
    raise DataError(f"{path}: it tells of no program's memory")
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


def _show(records: Sequence[cache.Record]) -> str:
  memories = [memory_row(r) for r in records]
  timed = [r for r in records if r["cycles"]]
  speeds = [speed_row(r) for r in timed]
  names = sorted({name for terms, _ in speeds for name in terms})
  left = _errors(memories, lambda rows: fit(rows, FITTED))
  slow = dict(zip(map(id, timed), _errors(speeds, lambda rows: fit(rows, names)), strict=True))
  rows = [("shape", "setting", "HBM GiB", "estimate", "off", "left out", "M cycles", "left out")]
  for record, (_, total), out in zip(records, memories, left, strict=True):
    plan, cell = cell_of(record)
    now = memory.estimate(plan.kind(cell.setting.optimizer), cell)
    s = cell.setting
    rows.append(
      (
        str(cell.shape),
        f"{s.topology}, {s.optimizer}, batch {s.batch}, {s.remat}, {s.sharding}",
        f"{total / GIB:.2f}",
        f"{now / GIB:.2f}",
        f"{now / total - 1:+.1%}",
        f"{out:+.1%}",
        f"{record['cycles'] / 1e6:.0f}" if record["cycles"] else "-",
        f"{slow[id(record)]:+.0%}" if id(record) in slow else "-",
      )
    )
  lines = report.columns(rows)
  lines.append(f"MEMORY = {_rounded(fit(memories, FITTED))}  now {constants.MEMORY}")
  lines.append(f"SPEED = {_rounded(fit(speeds, names))}  now {constants.SPEED}")
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
