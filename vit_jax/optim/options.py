"""Errors about options, shared by the optimisers and the schedules."""

import difflib
import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any

from vit_jax.errors import UserError


def refuse_unused(
  kind: str, name: str, used: Iterable[str], options: Mapping[str, Any], defaults: Mapping[str, Any]
) -> None:
  """Raises UserError for an option that `name` does not read and that is not at its default.

  Such an option would look as if it had an effect. The same rule holds for every optimiser and
  every schedule.
  """
  used = set(used)
  for key, value in options.items():
    if key not in used and value != defaults[key]:
      raise UserError(
        f"{kind} '{name}' does not use {key}={value!r}: remove it "
        f"(or set it to its default, {defaults[key]!r})"
      )


def check_range(
  key: str,
  value: Any,
  low: float,
  high: float = math.inf,
  *,
  open_high: bool = False,
  integer: bool = False,
) -> None:
  """Raises UserError unless `value` is a number with low <= value <= high (< if `open_high`)."""
  kind = numbers.Integral if integer else numbers.Real
  ok = isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)
  if not ok or value < low or value > high or (open_high and value == high):
    end = ")" if open_high or math.isinf(high) else "]"
    noun = "an integer" if integer else "a number"
    raise UserError(f"{key} must be {noun} in [{low}, {high}{end}, got {value!r}")


def unmatched(kind: str, pattern: str, paths: Iterable[str]) -> UserError:
  """Returns the error for a pattern that matches none of the parameter paths."""
  near = difflib.get_close_matches(pattern, list(paths), n=1, cutoff=0.3)
  hint = f"; the nearest is '{near[0]}'" if near else ""
  return UserError(f"{kind} '{pattern}' matches no parameter{hint}")
