"""From cells to outcomes: what to compile, what follows from it, and the estimate for the rest."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterable, Sequence
from typing import Any

from scaling.planner import cache, largest, memory, pool, speed, topology, work
from scaling.planner.grid import Cell
from scaling.planner.outcome import Outcome
from scaling.planner.plan import Plan, versions
from vit_jax import progress

# A scanned model's memory and cycles are linear in its depth, so two depths give all others. These
# are multiples of the 8 rows that a TPU pads arrays of one number per layer to.
PROBES = (8, 16)
_BEYOND = 0.03  # how far from the limit an estimate may well be on its wrong side, in logarithms


class Compiler:
  """The compiler, as far as it may be asked, and all that it has said.

  Attributes:
    failures: cells that did not compile for another reason than their size, and why.
    compiled: how many programs it has compiled this time.
  """

  def __init__(
    self, plan: Plan, known: cache.Cache, workers: pool.Pool | None, most: float
  ) -> None:
    """Compiles at most so many programs; None in the place of workers: none at all."""
    self._plan, self._known, self._workers = plan, known, workers
    self._left = most if workers else 0
    self._keys: dict[Cell, str] = {}
    self._cells: dict[str, Cell] = {}
    self.failures: dict[Cell, str] = {}
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
      self.failures[cell] = answer["error"]
      return
    self.compiled += 1
    known = {"plan": dataclasses.asdict(self._plan), "cell": cell.to_json(), **versions()}
    self._known.add({"key": self._keys[cell], **known, **answer})


def _line(plan: Plan, cell: Cell) -> tuple[Cell, ...]:
  """Returns the cells whose compilation tells of this one: its probes, or itself."""
  scanned = plan.kind(cell.setting.optimizer).scan
  if not scanned or cell.shape.depth <= PROBES[-1]:
    return (cell,)
  return tuple(cell.at_depth(depth) for depth in PROBES)


def outcome(plan: Plan, compiler: Compiler, cell: Cell) -> Outcome:
  """Returns the best that is known of a cell now."""
  where = topology.find(cell.setting.topology)
  kind = plan.kind(cell.setting.optimizer)
  record = compiler.known(cell) if compiler.can(cell) else None
  cycles: float | None = None
  if record is not None:
    source, hbm, cycles = "compiled", record["hbm"], record["cycles"]
    fits = not record["oom"] and (hbm is None or where.hbm is None or hbm <= where.hbm)
  else:
    source, hbm = "estimated", memory.estimate(kind, cell)
    ends = [compiler.known(c) for c in _line(plan, cell)] if compiler.can(cell) else []
    if len(ends) == 2 and all(e and e["hbm"] and not e["oom"] for e in ends):
      source, share = "extrapolated", (cell.shape.depth - PROBES[0]) / (PROBES[1] - PROBES[0])
      hbm, cycles = (
        None if ends[0][key] is None else ends[0][key] + share * (ends[1][key] - ends[0][key])
        for key in ("hbm", "cycles")
      )
    fits = where.hbm is None or hbm <= where.hbm
  if cycles is not None:
    seconds = cycles / where.clock
  else:
    seconds = speed.seconds(kind, cell, where)
  note = compiler.failures.get(cell, "")
  return Outcome(
    cell,
    where,
    work.of(kind, cell.shape),
    source,
    hbm,
    fits,
    seconds if fits else None,
    cycles,
    note=note,
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
  compiler.ask(c for o in order if o.source == "estimated" for c in _line(plan, o.cell))
  found = [outcome(plan, compiler, cell) for cell in cells]
  compiler.ask(o.cell for o in sorted(found, key=_distance) if o.source != "compiled")
  return [outcome(plan, compiler, cell) for cell in cells]


def _distance(known: Outcome) -> float:
  if not known.hbm or not known.where.hbm:
    return 0.0
  return abs(math.log(known.hbm / known.where.hbm))


def with_largest(plan: Plan, compiler: Compiler, found: Sequence[Outcome]) -> list[Outcome]:
  """Returns the outcomes with the largest batch that fits, the estimate's as the first guess."""
  searches = {}
  for known in found:
    guess = _by_estimate(plan, known)
    search = largest.search(guess)
    searches[known.cell] = (search, next(search))
  done: dict[Cell, tuple[int, str]] = {}
  while searches:
    compiler.ask(
      c for cell, (_, batch) in searches.items() for c in _line(plan, cell.at_batch(batch))
    )
    for cell, (search, batch) in list(searches.items()):
      answer = outcome(plan, compiler, cell.at_batch(batch))
      worst = max((done.get(cell, (0, "compiled"))[1], answer.source), key=_rank)
      done[cell] = (0, worst)
      try:
        searches[cell] = (search, search.send(answer.fits))
      except StopIteration as end:
        done[cell] = (end.value, worst)
        del searches[cell]
  return [
    dataclasses.replace(o, largest_batch=done[o.cell][0], largest_source=done[o.cell][1])
    for o in found
  ]


def _rank(source: str) -> int:
  return ("compiled", "extrapolated", "estimated").index(source)


def _by_estimate(plan: Plan, known: Outcome) -> int:
  kind, limit = plan.kind(known.cell.setting.optimizer), known.where.hbm or math.inf
  fitting = [b for b in largest.BATCHES if memory.estimate(kind, known.cell.at_batch(b)) <= limit]
  return max(fitting, default=0)
