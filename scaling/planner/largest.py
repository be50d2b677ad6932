"""The largest batch that fits."""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Collection, Generator, Mapping, Sequence

from scaling.planner import memory, solve, topology
from scaling.planner.grid import Cell
from scaling.planner.outcome import SOURCES, Outcome
from scaling.planner.plan import Plan

# 1, 2, 3, 4, 6, 8, 12, …: powers of two and what is half-way.
BATCHES = (1, 2, *(n for k in range(1, 13) for n in (3 * 2 ** (k - 1), 2 ** (k + 1))))


def search(
  batches: Sequence[int], first: int, low: int = -1, high: int | None = None
) -> Generator[int, bool | None, int]:
  """Looks for the largest of some batches that fits, asking as little as it can.

  Args:
    batches: to choose from, rising.
    first: the best guess; 0: that none does.
    low: index of one that is known to fit; -1: of none is it known.
    high: index of a larger one that is known not to fit; None: of none is it known.

  Yields:
    A batch to try; it is to be sent whether that fits.

  Returns:
    The largest that fits; 0: none does.
  """
  high = len(batches) if high is None else high
  at, step, replies = bisect.bisect_right(batches, first) - 1, 1, set()
  while high - low > 1:
    at = min(max(at, low + 1), high - 1)
    fits = yield batches[at]
    low, high = (at, high) if fits else (low, at)
    replies.add(fits)
    if len(replies) == 2:  # the answer is between two that were asked
      at = (low + high) // 2
    else:
      at, step = at + step if fits else at - step, 2 * step
  return batches[low] if low >= 0 else 0


def fill(plan: Plan, compiler: solve.Compiler, found: Sequence[Outcome]) -> list[Outcome]:
  """Returns the outcomes with the largest batch that fits; without where none can be trained.

  The estimate gives the first guess, and what the compiler has said of any batch bounds the search.
  Where the number of programs is limited, no more cells are searched at a time than are compiled at
  once: the first ones get sure answers instead of all of them half of one.
  """
  failures = {o.cell: solve.failure(plan, compiler, o.cell) for o in found}
  rest = [cell for cell, failed in failures.items() if not (failed and failed.invalid)]
  known = compiler.batches()
  answers: dict[Cell, tuple[int, str]] = {}
  while rest:
    many = compiler.jobs if 0 < compiler.left < math.inf else len(rest)
    answers |= _answers(plan, compiler, rest[:many], known)
    rest = rest[many:]
  return [
    dataclasses.replace(o, largest_batch=answers[o.cell][0], largest_source=answers[o.cell][1])
    if o.cell in answers
    else o
    for o in found
  ]


def _answers(
  plan: Plan,
  compiler: solve.Compiler,
  cells: Sequence[Cell],
  known: Mapping[Cell, Collection[int]],
) -> dict[Cell, tuple[int, str]]:
  """Returns the largest batch of each cell, and how it is known; `known`: `Compiler.batches`."""
  told = {
    c: {b for t in (c, *solve.told_by(plan, c)) for b in known.get(t.at_batch(1), ())}
    for c in cells
  }
  batches = {cell: _batches(plan, cell, told[cell]) for cell in cells}
  searches = {cell: _search(plan, compiler, cell, batches[cell], told[cell]) for cell in cells}
  found: dict[Cell, int] = {}
  replies: dict[Cell, bool | None] = dict.fromkeys(cells)
  while replies:
    asked = {}
    for cell, reply in replies.items():
      try:
        asked[cell] = cell.at_batch(searches[cell].send(reply))
      except StopIteration as end:
        found[cell] = end.value
    compiler.ask(c for cell in asked.values() for c in solve.told_by(plan, cell))
    replies = {c: solve.outcome(plan, compiler, other).fits for c, other in asked.items()}
  return {
    cell: (largest, _source(plan, compiler, cell, batches[cell], largest))
    for cell, largest in found.items()
  }


def _batches(plan: Plan, cell: Cell, told: Collection[int]) -> list[int]:
  """Returns the batches to choose from: those that micro-batches divide, and those known of."""
  parts = plan.kind(cell.setting.optimizer).accumulate
  return sorted({parts * n for n in BATCHES} | {cell.setting.batch} | set(told))


def _search(
  plan: Plan,
  compiler: solve.Compiler,
  cell: Cell,
  batches: Sequence[int],
  told: Collection[int],
) -> Generator[int, bool | None, int]:
  """Begins the search with what is estimated, within what the compiler has told of some batches."""
  kind, limit = plan.kind(cell.setting.optimizer), topology.find(cell.setting.topology).hbm
  guess = [b for b in batches if memory.estimate(kind, cell.at_batch(b)) <= (limit or math.inf)]
  sure = {b: solve.outcome(plan, compiler, cell.at_batch(b)) for b in told}
  sure = {b: o.fits for b, o in sure.items() if o.source != "estimated"}
  high = min((batches.index(b) for b, fits in sure.items() if not fits), default=len(batches))
  low = max((batches.index(b) for b, fits in sure.items() if fits), default=-1)
  return search(batches, max(guess, default=0), min(low, high - 1), high)


def _source(
  plan: Plan, compiler: solve.Compiler, cell: Cell, batches: Sequence[int], largest: int
) -> str:
  """Returns how the less sure of two is known: the batch that fits, and the next that does not."""
  at = batches.index(largest) if largest else -1
  ends = [cell.at_batch(b) for b in batches[max(at, 0) : at + 2]]
  return max((solve.outcome(plan, compiler, c).source for c in ends), key=SOURCES.index)
