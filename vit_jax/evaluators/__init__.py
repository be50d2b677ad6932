"""What a model is worth: each evaluator is an entry of `config.evaluators`."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from vit_jax.errors import UserError, unknown
from vit_jax.evaluators.adversarial import Adversarial
from vit_jax.evaluators.classification import Classification
from vit_jax.evaluators.context import Context
from vit_jax.evaluators.contrastive import Contrastive
from vit_jax.evaluators.corruptions import Corruptions
from vit_jax.evaluators.fewshot import FewShot
from vit_jax.evaluators.knn import NearestNeighbours
from vit_jax.evaluators.linear_probe import LinearProbe
from vit_jax.evaluators.sharpness import Sharpness
from vit_jax.state import TrainState

# type -> the dataclass whose fields are the entry's other keys.
TYPES: dict[str, Callable[..., Any]] = {
  "adversarial": Adversarial,
  "classification": Classification,
  "contrastive": Contrastive,
  "corruptions": Corruptions,
  "fewshot": FewShot,
  "knn": NearestNeighbours,
  "linear_probe": LinearProbe,
  "sharpness": Sharpness,
}


class Evaluator(Protocol):
  """Measures a state; `every` is the number of steps between two times (0: at the end only)."""

  every: int

  def check(self) -> None:
    """Reads one batch, so that mistakes show before training; raises a UserError."""
    ...

  def __call__(self, state: TrainState) -> dict[str, float]:
    """Returns metric name -> value."""
    ...


def protocols(evaluators: Mapping[str, Evaluator]) -> dict[str, dict[str, Any]]:
  """Returns what the numbers of each entry depend on beside the model: data, preprocessing, rules.

  It stands in the record of each measurement. An evaluator tells it, in JSON values, by a property
  `protocol`.
  """
  return {n: dict(e.protocol) for n, e in evaluators.items() if hasattr(e, "protocol")}


def make(entries: Mapping[str, Mapping[str, Any]], context: Context) -> dict[str, Evaluator]:
  """Builds the evaluators of a config; their metrics are named `<entry>_<metric>`.

  Raises:
    UserError: no entry, an unknown type or key (the nearest known one is named), or data that
      cannot be read.
  """
  if not entries:
    raise UserError("config.evaluators is empty: the run would leave no measurement")
  return {name: _make_one(name, dict(entry), context) for name, entry in entries.items()}


def _make_one(name: str, entry: dict[str, Any], context: Context) -> Evaluator:
  where = f"config.evaluators.{name}"
  kind = entry.pop("type", None)
  if not isinstance(kind, str) or kind not in TYPES:
    raise unknown(f"{where}.type", kind, TYPES)
  defaults = {
    f.name: f.default for f in dataclasses.fields(TYPES[kind]) if f.name not in ("name", "context")
  }
  for key, value in entry.items():
    if key not in defaults:
      raise unknown(f"key of {where}", key, defaults)
    if isinstance(defaults[key], tuple) and isinstance(value, int | float):
      entry[key] = (value,)  # one number of shots, say
    elif isinstance(defaults[key], int | float) and isinstance(value, str):
      raise UserError(f"{where}.{key}={value!r} must be a number, such as {defaults[key]!r}")
  every = entry.get("every", 0)
  if not isinstance(every, int) or every < 0:
    raise UserError(f"{where}: every={every!r} must be a number of steps, 0 for the end only")
  evaluator = TYPES[kind](name=name, context=context, **entry)
  evaluator.check()
  return evaluator
