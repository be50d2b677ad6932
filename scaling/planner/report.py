"""Outcomes as people and programs read them: a summary, CSV and JSON."""

from __future__ import annotations

import collections
import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scaling.errors import DataError
from scaling.planner.best import Best
from scaling.planner.outcome import SOURCES, Outcome
from scaling.planner.savings import SAVINGS
from scaling.words import figure
from vit_jax import progress
from vit_jax.devices import GIB
from vit_jax.rundir import write_atomically

_MARKS = {"compiled": "", "extrapolated": "'", "estimated": "~"}
_LONGEST = 48  # rows of a table on the terminal


def write(outcomes: Sequence[Outcome], meta: Mapping[str, Any], directory: Path) -> None:
  """Writes shapes.csv and shapes.json.

  Args:
    outcomes: one row each.
    meta: what stands beside the rows in JSON.
    directory: where to.

  Raises:
    DataError: it cannot be written.
  """
  rows = [known.to_json() for known in outcomes]
  text = io.StringIO()
  writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
  writer.writeheader()
  writer.writerows(rows)
  try:
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / "shapes.csv", text.getvalue())
    write_atomically(
      directory / "shapes.json", json.dumps({**meta, "cells": rows}, indent=1) + "\n"
    )
  except OSError as e:
    raise DataError(f"{directory}: {e.strerror}; give another --out") from None


def groups(outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
  """Returns the outcomes by what one figure shows: all that is no shape and no optimiser."""
  found: dict[str, list[Outcome]] = collections.defaultdict(list)
  for known in outcomes:
    s = known.cell.setting
    name = f"{s.topology}, batch {s.batch}, remat {s.remat}, {s.sharding}"
    found[f"{name}, patch {known.cell.shape.patch_size}"].append(known)
  return dict(found)


def summary(outcomes: Sequence[Outcome]) -> str:
  """Returns how many shapes fit in each setting, and all of them, or if too many the known ones."""
  lines = []
  for name, mine in groups(outcomes).items():
    limit = mine[0].where.hbm
    usable = f" ({limit / GIB:.2f} GiB usable per device)" if limit else ""
    lines.append(f"{name}{usable}")
    for optimizer in dict.fromkeys(o.cell.setting.optimizer for o in mine):
      own = [o for o in mine if o.cell.setting.optimizer == optimizer]
      sources = collections.Counter(o.source for o in own)
      told = ", ".join(f"{sources[s]} {s}" for s in SOURCES if sources[s])
      fit = sum(o.fits for o in own)
      lines.append(f"  {SAVINGS[optimizer].label}: {fit} of {len(own)} shapes fit ({told})")
    few = mine if len(mine) <= _LONGEST else [o for o in mine if o.cell.shape.published]
    lines += ["", *("  " + line for line in table(few))] if few else []
  failed = [o for o in outcomes if o.note]
  lines += [f"  {o.cell.shape}, {o.cell.setting.optimizer}: {o.note}" for o in failed[:10]]
  if len(failed) > 10:
    lines.append(f"  and {len(failed) - 10} more that did not compile: see shapes.csv")
  return "\n".join(lines)


def table(outcomes: Sequence[Outcome]) -> list[str]:
  """Returns a line for each outcome; "~" is an estimate, "'" from two compiled depths."""
  rows = [("shape", "optimizer", "params", "GFLOPs", "HBM GiB", "fits", "step", "img/s", "largest")]
  for known in outcomes:
    mark, speed = _MARKS[known.source], known.images_per_second
    hbm = "too much" if known.hbm is None else f"{mark}{known.hbm / GIB:.2f}"
    step = progress.seconds(known.seconds) if known.seconds else "-"
    if known.seconds and known.seconds < 9.95:
      step = f"{known.seconds:.3f}s"
    largest = known.largest_batch
    rows.append(
      (
        str(known.cell.shape),
        known.cell.setting.optimizer,
        progress.si(known.work.params),
        f"{known.work.forward / 1e9:.1f}",
        hbm,
        "yes" if known.fits else "no",
        step,
        "-" if speed is None else figure(speed),
        "-" if largest is None else f"{_MARKS.get(known.largest_source, '')}{largest}",
      )
    )
  return columns(rows)


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
  """Returns rows of text in columns, the first two to the left."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return [
    "  ".join(
      cell.ljust(w) if i < 2 else cell.rjust(w)
      for i, (cell, w) in enumerate(zip(row, widths, strict=True))
    ).rstrip()
    for row in rows
  ]


def best(
  found: Sequence[Best],
  wanted: Mapping[str, float],
  flops: float,
  source: str,
  outcomes: Sequence[Outcome],
) -> str:
  """Returns the table of the best shapes for a compute, and what keeps them from the law's.

  Args:
    found: see `best.nearest`.
    wanted: the law's shape.
    flops: of training.
    source: of the law.
    outcomes: of the whole grid.
  """
  lines = [
    f"best shape for {flops:g} training FLOPs by {source}: depth {wanted['depth']:.1f}, width "
    f"{wanted['width']:.0f}, MLP width {wanted['mlp_dim']:.0f}; of those that fit, the nearest:"
  ]
  if not found:
    return f"{lines[0]} none"
  rows = [("shape", "setting", "off by", "params", "images", "step", "device-days", "MFU")]
  for one in found:
    known, setting = one.outcome, one.outcome.cell.setting
    batch = f"batch {setting.batch}"
    rows.append(
      (
        str(known.cell.shape),
        f"{setting.topology}, {setting.optimizer}, {batch}, {setting.remat}, {setting.sharding}",
        f"{one.distance:.0%}",
        progress.si(known.work.params),
        progress.si(one.images),
        f"{known.seconds:.3f}s" if known.seconds else "-",
        "-" if one.device_days is None else figure(one.device_days),
        "-" if known.mfu is None else f"{known.mfu:.0%}",
      )
    )
  lines += ["  " + line for line in columns(rows)]
  lines += [f"  note: {note}" for note in _limits(outcomes, wanted)]
  return "\n".join(lines)


def _limits(outcomes: Sequence[Outcome], wanted: Mapping[str, float]) -> list[str]:
  """Returns where sizes end far from those wanted: at the grid's edge, or at what fits in it."""
  notes = []
  fitting = [known for known in outcomes if known.fits]
  for name, value in wanted.items():
    asked = f"; the law asks for {value:.0f}"
    if edge := _edge(outcomes, name, value):
      notes.append(f"the grid's {name} ends at {edge}{asked}")
    elif edge := _edge(fitting, name, value):
      notes.append(f"of the grid's shapes, those that fit end at {name} {edge}{asked}")
  return notes


def _edge(outcomes: Sequence[Outcome], name: str, value: float) -> int | None:
  """Returns the end of the sizes that a value is well beyond; None: it is not."""
  sizes = [getattr(known.cell.shape, name) for known in outcomes]
  if min(sizes) * 0.8 <= value <= max(sizes) * 1.25:
    return None
  return min(sizes) if value < min(sizes) else max(sizes)
