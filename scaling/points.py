"""From a table to the points of a fit: columns, filters, conversions, what is wrong with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from scaling.errors import DataError, nearest
from scaling.lawform import Array
from scaling.measurements import Table, is_finite, number

DEFAULT_X = "train_flops"
DEFAULT_Y = "test_error"
DEFAULT_GROUP = "model"
# A law describes one quantity: rows of different kinds in these columns must be chosen between.
KINDS = ("metric", "dataset", "task", "split", "curve")
CONVERSIONS = ("percent", "accuracy", "percent-accuracy")  # of y, see `select`
_ERRORS = ("error", "err")
_ACCURACIES = ("accuracy", "acc", "top1", "top5")
_FRACTIONS = (*_ERRORS, *_ACCURACIES, "rate")
_TRUE = ("true", "1", "1.0")  # the cells of a CSV file are text
_NAMED = 3  # how many offending lines a message names


@dataclasses.dataclass(frozen=True)
class Points:
  """Measurements as numbers.

  Attributes:
    x: scales, [n], positive, finite.
    y: errors, [n], finite.
    group: the model of each point, [n] of str.
    run: the training run of each point, [n] of str; points of one run share their luck.
    place: "file:line" of each point.
    names: the columns: {"x": ..., "y": ..., "group": ...}.
    notes: sentences about what was left out.
    rows: the rows of the table behind the points.
  """

  x: Array
  y: Array
  group: Array
  run: Array
  place: list[str]
  names: dict[str, str]
  notes: list[str]
  rows: list[dict[str, object]]

  def __len__(self) -> int:
    return len(self.x)


def select(
  table: Table,
  *,
  x: str | None = None,
  y: str | None = None,
  group: str | None = None,
  where: Sequence[str] = (),
  convert: str | None = None,
) -> Points:
  """Takes the points of a fit from a table.

  Args:
    table: the measurements.
    x: column of the scale; None: train_flops.
    y: column of the error; None: test_error.
    group: column of the model; None: model if there is one, otherwise all points are one group.
    where: filters "column=value".
    convert: one of `CONVERSIONS`: "percent" (y / 100), "accuracy" (1 - y), "percent-accuracy"
      (1 - y / 100); or None.

  Raises:
    DataError: a column does not exist or is not numeric, a filter leaves nothing, rows of
      several metrics are mixed, or y is in per cent or an accuracy and `convert` does not say so.
  """
  notes = list(table.notes)
  table = _filter(table, where)
  x, y = _column(table, x, DEFAULT_X, "x"), _column(table, y, DEFAULT_Y, "y")
  if x == y:
    raise DataError(f"{x!r} is both --x and --y: choose two columns")
  columns = table.columns()
  if group is not None and group not in columns:
    raise DataError(f"no column {group!r}{nearest(group, columns)} (--group)")
  group = group or (DEFAULT_GROUP if DEFAULT_GROUP in columns else None)
  table = table.where([x in row and y in row for row in table.rows])
  table = _final_only(table, notes)
  _one_kind(table, x, y, group)
  table = _usable(table, x, y, notes)
  values = np.array([number(row[y]) for row in table.rows], dtype=np.float64)
  values = _convert(values, y, convert)
  scales = np.array([number(row[x]) for row in table.rows], dtype=np.float64)
  groups = np.array([str(row.get(group, "?")) if group else y for row in table.rows])
  runs = np.array(
    [str(row["run"]) if "run" in row else g for row, g in zip(table.rows, groups, strict=True)]
  )
  names = {"x": x, "y": y, "group": group or ""}
  return Points(scales, values, groups, runs, table.places, names, notes, table.rows)


def _filter(table: Table, where: Sequence[str]) -> Table:
  for condition in where:
    key, equals, value = condition.partition("=")
    if not equals:
      raise DataError(f"--where {condition}: write column=value")
    if key not in table.columns():
      raise DataError(f"--where: no column {key!r}{nearest(key, table.columns())}")
    kept = table.where([_same(row.get(key), value) for row in table.rows])
    if not kept.rows:
      seen = list(dict.fromkeys(str(row[key]) for row in table.rows if key in row))
      raise DataError(f"--where: no row has {key}={value}{nearest(value, seen)}")
    table = kept
  return table


def _same(cell: object, wanted: str) -> bool:
  if isinstance(cell, bool):
    return str(cell).lower() == wanted.lower()
  left, right = number(cell), number(wanted)
  return str(cell) == wanted if left is None or right is None else left == right


def _column(table: Table, name: str | None, default: str, axis: str) -> str:
  numeric = table.numeric()
  name = name or default
  if name in numeric:
    return name
  listing = f"numeric columns: {', '.join(numeric) or 'none'}; choose with --{axis}"
  if name in table.columns():
    raise DataError(f"column {name!r} does not hold numbers ({listing})")
  raise DataError(f"no column {name!r}{nearest(name, numeric)} ({listing})")


def _final_only(table: Table, notes: list[str]) -> Table:
  """Mid-trunk lines stand at a high learning rate: use them only when there is nothing else."""
  final = [str(row.get("final")).strip().lower() in _TRUE for row in table.rows]
  if not any("final" in row for row in table.rows):
    return table
  if any(final):
    left = len(final) - sum(final)
    if left:
      notes.append(f"{left} mid-training lines (final=false) not used: learning rate high")
    return table.where(final)
  notes.append("no line has final=true: mid-training lines, at a high learning rate, are used")
  return table


def _one_kind(table: Table, x: str, y: str, group: str | None) -> None:
  kinds = [*KINDS, "device_kind"] if "seconds" in x else list(KINDS)
  for kind in kinds:
    # A curve may be what others call a model; a law over several data sets has no meaning.
    if kind in (x, y) or kind == group == "curve":
      continue
    seen = list(dict.fromkeys(str(row[kind]) for row in table.rows if kind in row))
    if len(seen) > 1:
      listing = ", ".join(seen[:6])
      raise DataError(f"column {kind!r} mixes {listing}: choose one with --where {kind}={seen[0]}")


def _usable(table: Table, x: str, y: str, notes: list[str]) -> Table:
  """Leaves out rows whose numbers no law can take, and says which."""
  bad = {
    f"{y} is not a finite number": [not is_finite(row[y]) for row in table.rows],
    f"{x} is not a finite number": [not is_finite(row[x]) for row in table.rows],
    f"{x} is not positive": [is_finite(r[x]) and number(r[x]) <= 0 for r in table.rows],
  }
  for what, rows in bad.items():
    places = [place for place, b in zip(table.places, rows, strict=True) if b]
    if places:
      notes.append(f"{listing(places)}: {what}; left out")
  kept = table.where([not any(flags) for flags in zip(*bad.values(), strict=True)])
  if not kept.rows:
    raise DataError(f"no row has a usable {x} and {y} ({notes[-1] if notes else 'empty'})")
  return kept


def listing(places: Sequence[str]) -> str:
  """Names the first of the offending lines and says how many there are besides."""
  more = f" and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
  return ", ".join(places[:_NAMED]) + more


def _convert(values: Array, name: str, convert: str | None) -> Array:
  if convert in ("percent", "percent-accuracy"):
    values = values / 100
  if convert in ("accuracy", "percent-accuracy"):
    values = 1 - values
  words = name.lower().replace("-", "_").split("_")
  if not any(word in _FRACTIONS for word in words):
    return values
  # top5_error is an error, though accuracies are often called top5 alone.
  accuracy = any(word in _ACCURACIES for word in words) and not any(w in _ERRORS for w in words)
  if values.max() > 1 and values.max() <= 100:
    or_accuracy = ", or percent-accuracy if it rises with scale" if accuracy else ""
    raise DataError(
      f"{name} goes up to {values.max():g}: a fraction is meant, this looks like per cent "
      f"(--convert percent{or_accuracy})"
    )
  if convert is None and accuracy:
    raise DataError(f"{name} rises with scale, laws are for errors (--convert accuracy)")
  return values
