"""Numbers and findings as people read them."""

from __future__ import annotations

import math


def figure(value: float | None, digits: int = 3) -> str:
  """Formats a number with so many significant digits; large and small ones with an exponent."""
  if value is None:
    return "-"
  if not math.isfinite(value):
    return "inf" if value > 0 else "-inf" if value < 0 else "nan"
  if value == 0:
    return "0"
  if 1e-3 <= abs(value) < 10 ** max(4, digits + 1):
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{decimals}f}"
  return f"{value:.{digits - 1}e}"


def label(column: str) -> str:
  """Returns a column's name as an axis shows it: train_flops is "training FLOPs"."""
  known = {"train": "training", "flops": "FLOPs"}
  return " ".join(known.get(word, word) for word in column.split("_") if word) or column


def span(low: float, high: float, digits: int = 3) -> str:
  """Formats an interval."""
  return f"{figure(low, digits)} … {figure(high, digits)}"
