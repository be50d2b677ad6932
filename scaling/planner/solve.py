"""From cells to outcomes: what to compile, what follows from it, and the estimate for the rest."""

from __future__ import annotations

import collections
import dataclasses
import math
import time
from collections.abc import Iterable, Sequence
from typing import Any

from scaling.planner import cache, memory, pool, speed, topology, work
from scaling.planner.grid import Cell
from scaling.planner.outcome import Outcome
from scaling.planner.plan import Plan, versions
from vit_jax import progress

# A scanned model's memory and cycles are linear in its depth, so two depths give all others. These
# are multiples of the 8 rows that a TPU pads arrays of one number per layer to.
PROBES = (8, 16)
_BEYOND = 0.03  # how far from the limit an estimate may well be on its wrong side, in logarithms


@dataclasses.dataclass(frozen=True)
class Failure:
  """Why a cell did not compile, other than for its size.

  Attributes:
    reason: one line.
    invalid: whether it cannot be trained at all, by what the job itself says.
  """

  reason: str
  invalid: bool


class Compiler:
  """The compiler, as far as it may be asked, and all that it has said.

  Attributes:
    failures: cells that did not compile for another reason than their size.
    compiled: how many programs it has compiled this time.
    jobs: how many it compiles at once.
  """

  def __init__(
    self, plan: Plan, known: cache.Cache, workers: pool.Pool | None, most: float
  ) -> None:
    """Compiles at most so many programs; None in the place of workers: none at all."""
    self._plan, self._known, self._workers = plan, known, workers
    self.jobs = workers.jobs if workers else 1
    self._left = most if workers else 0
    self._keys: dict[Cell, str] = {}
    self.failures: dict[Cell, Failure] = {}
    self.compiled = 0

  def known(self, cell: Cell) -> cache.Record | None:
    """Returns what the compiler has said of a cell, now or in an earlier call."""
    if cell not in self._keys:
      self._keys[cell] = self._plan.key(cell)
    return self._known.get(self._keys[cell])

  def can(self, cell: Cell) -> bool:
    """Whether there is a compiler for a cell."""
    return topology.find(cell.setting.topology).compiler is not None

  @property
  def left(self) -> float:
    """Returns how many programs it may still compile."""
    return self._left

  def allow(self, more: int) -> None:
    """Lets it compile so many programs more, if it can any."""
    self._left += more if self._workers else 0

  def batches(self) -> dict[Cell, set[int]]:
    """Returns the batches that the compiler has spoken of, by the cell with batch 1."""
    found: dict[Cell, set[int]] = collections.defaultdict(set)
    for record in self._known.records():
      cell = Cell.of_json(record["cell"])
      if self.known(cell) is record:  # else it is of another config or version
        found[cell.at_batch(1)].add(cell.setting.batch)
    return found

  def ask(self, cells: Iterable[Cell]) -> None:
    """Compiles those cells that are not known, as far as it may, and remembers what it says."""
    self._known.refresh()
    todo = [
      cell
      for cell in dict.fromkeys(cells)
      if self.can(cell) and self.known(cell) is None and cell not in self.failures
    ]
    todo = todo[: int(min(self._left, len(todo)))]
    if not todo:
      return
    self._left -= len(todo)
    begin = time.monotonic()
    with progress.Bar("compile") as bar:
      bar.update(0, len(todo), "")
      for done, (cell, answer) in enumerate(self._workers.compile(todo), 1):
        self._remember(cell, answer)
        eta = progress.seconds((time.monotonic() - begin) / done * (len(todo) - done))
        bar.update(done, len(todo), f"{cell.shape}, {cell.setting.optimizer}; {eta} left")

  def _remember(self, cell: Cell, answer: dict[str, Any]) -> None:
    if "error" in answer:
      self.failures[cell] = Failure(answer["error"], answer.get("invalid", False))
      return
    self.compiled += 1
    known = {"plan": dataclasses.asdict(self._plan), "cell": cell.to_json(), **versions()}
    self._known.add({"key": self._keys[cell], **known, **answer})


def told_by(plan: Plan, cell: Cell) -> tuple[Cell, ...]:
  """Returns the cells whose compilation tells of this one: its probes, or itself."""
  scanned = plan.kind(cell.setting.optimizer).scan
  if not scanned or cell.shape.depth <= PROBES[-1]:
    return (cell,)
  return tuple(cell.at_depth(depth) for depth in PROBES)


def failure(plan: Plan, compiler: Compiler, cell: Cell) -> Failure | None:
  """Returns what went wrong with a cell, or with those that would have told of it."""
  tried = (cell, *told_by(plan, cell))
  return next((compiler.failures[c] for c in tried if c in compiler.failures), None)


def outcome(plan: Plan, compiler: Compiler, cell: Cell) -> Outcome:
  """Returns the best that is known of a cell now."""
  where = topology.find(cell.setting.topology)
  kind = plan.kind(cell.setting.optimizer)
  record = compiler.known(cell) if compiler.can(cell) else None
  failed: Failure | None = None
  cycles: float | None = None
  if record is not None:
    source, hbm, cycles = "compiled", record["hbm"], record["cycles"]
    fits = not record["oom"] and (hbm is None or where.hbm is None or hbm <= where.hbm)
  else:
    source, hbm = "estimated", memory.estimate(kind, cell)
    failed = failure(plan, compiler, cell)
    ends = [compiler.known(c) for c in told_by(plan, cell)] if compiler.can(cell) else []
    if len(ends) == 2 and all(e and e["hbm"] and not e["oom"] for e in ends):
      source, share = "extrapolated", (cell.shape.depth - PROBES[0]) / (PROBES[1] - PROBES[0])
      hbm, cycles = (
        None if ends[0][key] is None else ends[0][key] + share * (ends[1][key] - ends[0][key])
        for key in ("hbm", "cycles")
      )
    fits = (where.hbm is None or hbm <= where.hbm) and not (failed and failed.invalid)
  if cycles is not None:
    seconds = cycles / where.clock
  else:
    seconds = speed.seconds(kind, cell, where)
  return Outcome(
    cell,
    where,
    work.of(kind, cell.shape),
    source,
    hbm,
    fits,
    seconds if fits else None,
    cycles,
    note=failed.reason if failed else "",
  )


def solve(plan: Plan, compiler: Compiler, cells: Sequence[Cell]) -> list[Outcome]:
  """Returns the outcome of each cell.

  What is compiled is what is nearest to the limit by the estimate. First cells just beyond it: a
  program that does not fit is refused within seconds. From half of what may be compiled on, shapes
  at the two depths that give all depths, which takes a whole compilation each and tells of the time
  of a step, too; then single cells.
  """
  cells = list(cells)
  found = [outcome(plan, compiler, cell) for cell in progress.track(cells, "estimate", len(cells))]
  if not compiler.left:
    return found
  if math.isinf(compiler.left):
    compiler.ask(cells)
    return [outcome(plan, compiler, cell) for cell in cells]
  order = sorted(found, key=_distance)
  beyond = [o.cell for o in order if not o.fits and _distance(o) < _BEYOND]
  compiler.ask(beyond[: int(compiler.left) // 2])
  compiler.ask(c for o in order if o.source == "estimated" for c in told_by(plan, o.cell))
  found = [outcome(plan, compiler, cell) for cell in cells]
  compiler.ask(o.cell for o in sorted(found, key=_distance) if o.source != "compiled")
  return [outcome(plan, compiler, cell) for cell in cells]


def _distance(known: Outcome) -> float:
  if not known.hbm or not known.where.hbm:
    return 0.0
  return abs(math.log(known.hbm / known.where.hbm))
