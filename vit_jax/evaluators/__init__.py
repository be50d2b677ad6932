"""What a model is worth: each evaluator is an entry of `config.evaluators`."""

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from vit_jax.errors import UserError
from vit_jax.evaluators.classification import Classification
from vit_jax.evaluators.context import Context
from vit_jax.state import TrainState

# type -> the dataclass whose fields are the entry's other keys.
TYPES: dict[str, Callable[..., Any]] = {"classification": Classification}


class Evaluator(Protocol):
  """Measures a state; `every` is the number of steps between two times (0: at the end only)."""

  every: int

  def __call__(self, state: TrainState) -> dict[str, float]:
    """Returns metric name -> value."""
    ...


def make(entries: Mapping[str, Mapping[str, Any]], context: Context) -> dict[str, Evaluator]:
  """Builds the evaluators of a config; their metrics are named `<entry>_<metric>`.

  Raises:
    UserError: an unknown type or key (the nearest known one is named).
  """
  return {name: _make_one(name, dict(entry), context) for name, entry in entries.items()}


def _make_one(name: str, entry: dict[str, Any], context: Context) -> Evaluator:
  where = f"config.evaluators.{name}"
  kind = entry.pop("type", None)
  if kind not in TYPES:
    raise UserError(f"{where}: unknown type {kind!r}; there are: {', '.join(TYPES)}")
  known = [f.name for f in dataclasses.fields(TYPES[kind]) if f.name not in ("name", "context")]
  for key in entry:
    if key not in known:
      near = difflib.get_close_matches(key, known, n=1, cutoff=0) or known
      raise UserError(f"{where}: unknown key '{key}'; did you mean '{near[0]}'?")
  return TYPES[kind](name=name, context=context, **entry)
