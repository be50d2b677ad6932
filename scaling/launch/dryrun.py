"""The plan of a sweep: what it trains, what that costs, and what sharing trunks saves."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from scaling.launch import costs, jobs
from scaling.launch.costs import Cost
from scaling.launch.grid import Run
from scaling.launch.rates import Rate, Rates
from vit_jax.progress import gib, seconds, si


@dataclasses.dataclass(frozen=True)
class Amount:
  """Some training: steps, training FLOPs, and hours of one device (None: of no known speed)."""

  steps: int
  flops: float
  hours: float | None

  @classmethod
  def total(cls, amounts: Iterable[Amount]) -> Amount:
    """Returns the sum; hours only if all have them."""
    amounts = list(amounts)
    hours = [a.hours for a in amounts]
    return cls(
      sum(a.steps for a in amounts),
      sum(a.flops for a in amounts),
      None if None in hours else sum(hours),
    )


@dataclasses.dataclass(frozen=True)
class Priced:
  """A run with its price.

  Attributes:
    run: the run.
    cost: of a step and a checkpoint.
    rate: FLOP/s of a device, None when no device is given.
    finished: jobs (the trunk, each branch) that are done, of how many.
    all: from the beginning to the end.
    left: what has not been trained yet.
    separate: what a run of its own for each branch would take.
    disk: bytes of the checkpoints that are left when all is done, uncompressed.
  """

  run: Run
  cost: Cost
  rate: Rate | None
  finished: tuple[int, int]
  all: Amount
  left: Amount
  separate: Amount
  disk: int


def price(runs: Sequence[Run], rates: Rates) -> list[Priced]:
  """Prices runs on a device."""
  priced = zip(runs, costs.of_runs(runs), strict=True)
  return [_price(run, cost, rates.of(cost)) for run, cost in priced]


def _price(run: Run, cost: Cost, rate: Rate | None) -> Priced:
  def amount(steps: int) -> Amount:
    flops = steps * cost.flops_per_step
    return Amount(steps, flops, None if rate is None else flops / rate.flops / 3600)

  parts = jobs.of_runs([run])
  open_parts = [job for job in parts if not job.finished()]
  left = sum(max(0, job.stop - max(job.start, job.reached())) for job in open_parts)
  return Priced(
    run,
    cost,
    rate,
    finished=(len(parts) - len(open_parts), len(parts)),
    all=amount(run.plan.steps),
    left=amount(left),
    separate=amount(run.plan.steps_from_scratch if run.plan.branches else run.plan.steps),
    disk=costs.checkpoints_kept(run) * cost.state_bytes,
  )


def show(priced: Sequence[Priced], rates: Rates, console: Console | None = None) -> None:
  """Prints the plan as a table, and below it what is left and what sharing saves."""
  console = console or Console(width=132)
  table = Table(title=f"{len(priced)} runs", title_justify="left")
  for heading in ("run", "model"):
    table.add_column(heading, overflow="fold")
  hours = rates.device is not None
  headings = ["parameters", "trunk", "branches", "steps", "train FLOPs", "disk", "done"]
  for heading in [*headings, *(["device time"] if hours else [])]:
    table.add_column(heading, justify="right")
  for p in priced:
    plan = p.run.plan
    cells = [
      p.run.label,
      p.cost.model,
      si(p.cost.parameters),
      f"{plan.trunk_steps:,}",
      " ".join(f"{b:,}" for b in plan.branches),
      f"{p.all.steps:,}",
      si(p.all.flops),
      gib(p.disk),
      f"{p.finished[0]}/{p.finished[1]}",
    ]
    table.add_row(*cells, *([_hours(p.all.hours)] if hours else []))
  table.add_section()
  whole = Amount.total(p.all for p in priced)
  total = ["all", "", "", "", "", f"{whole.steps:,}", si(whole.flops)]
  done = [sum(p.finished[i] for p in priced) for i in (0, 1)]
  total += [gib(sum(p.disk for p in priced)), f"{done[0]}/{done[1]}"]
  table.add_row(*total, *([_hours(whole.hours)] if hours else []))
  console.print(table)
  for line in sentences(priced, rates):
    console.print(line, soft_wrap=True)


def _hours(value: float) -> str:
  return seconds(value * 3600) if value < 10 else f"{value:,.0f}h"


def _amount(a: Amount) -> str:
  hours = "" if a.hours is None else f", {_hours(a.hours)} of device time"
  return f"{a.steps:,} steps, {si(a.flops, 'FLOPs')}{hours}"


def sentences(priced: Sequence[Priced], rates: Rates) -> list[str]:
  """Says what is left, what sharing trunks saves, and how the hours came about."""
  whole, left, separate = (
    Amount.total(getattr(p, name) for p in priced) for name in ("all", "left", "separate")
  )
  lines = []
  if left.steps < whole.steps:
    lines.append(f"Left to train: {_amount(left)}.")
  if separate.steps > whole.steps:
    saved = _saved(whole, separate)
    lines.append(
      f"Branches share their trunks: separate runs would take {_amount(separate)}; "
      f"that saves {_amount(saved)} ({saved.flops / separate.flops:.0%} of the FLOPs)."
    )
  if rates.device is None:
    lines.append("For device time, name a --device: v3, H100, or one measured below --workdir.")
  else:
    models: dict[str, list[str]] = {}
    for p in priced:
      models.setdefault(p.rate.source, []).append(p.cost.model)
    speeds = [
      source if len(models) == 1 else f"{source} for {', '.join(dict.fromkeys(of))}"
      for source, of in models.items()
    ]
    lines.append(
      f"Time of one {rates.device} in training steps alone, at FLOP/s: {'; '.join(speeds)}."
    )
  unknown = dict.fromkeys(p.run.config.data.name for p in priced if not p.cost.data_known)
  if unknown:
    lines.append(
      f"Not on this machine, taken to have {costs.NUM_CLASSES:,} classes: {', '.join(unknown)}."
    )
  return lines


def _saved(whole: Amount, separate: Amount) -> Amount:
  hours = None if whole.hours is None else separate.hours - whole.hours
  return Amount(separate.steps - whole.steps, separate.flops - whole.flops, hours)


def as_json(priced: Sequence[Priced], rates: Rates) -> dict[str, Any]:
  """Returns the plan with its units in the names of its entries."""
  names = ("all", "left", "separate")
  total = {name: Amount.total(getattr(p, name) for p in priced) for name in names}

  def amounts(of: dict[str, Amount]) -> dict[str, Any]:
    return {
      name: {"steps": a.steps, "train_flops": a.flops, "device_hours": a.hours}
      for name, a in of.items()
    }

  saved = _saved(total["all"], total["separate"])
  return {
    "device": rates.device,
    "runs": [
      {
        "run": p.run.label,
        "model": p.cost.model,
        "parameters": p.cost.parameters,
        "flops_per_image": p.cost.flops_per_image,
        "trunk_steps": p.run.plan.trunk_steps,
        "branches": list(p.run.plan.branches),
        "jobs_finished": p.finished[0],
        "jobs": p.finished[1],
        "device_flops_per_second": p.rate and p.rate.flops,
        "device_flops_source": p.rate and p.rate.source,
        "disk_bytes": p.disk,
        **amounts({name: getattr(p, name) for name in names}),
      }
      for p in priced
    ],
    "disk_bytes": sum(p.disk for p in priced),
    **amounts({**total, "saved": saved}),
  }
