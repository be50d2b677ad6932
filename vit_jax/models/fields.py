"""The types of model fields, and the check of values that a person gives for them.

A field's annotation is `bool`, `int`, `float`, a `Literal` of strings, or `Annotated[type, check]`
with a function `check(key, value)` that returns the value to use or raises UserError.
"""

import inspect
import math
import numbers
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import jax.numpy as jnp
from flax import linen as nn

from vit_jax.errors import UserError, unknown

Check = Callable[[str, Any], Any]


def _integer(key: str, value: Any) -> int:
  if not isinstance(value, numbers.Integral) or isinstance(value, bool):
    raise UserError(f"model field {key} must be an integer, got {value!r}")
  return int(value)


def _number(key: str, value: Any) -> float:
  if not isinstance(value, numbers.Real) or isinstance(value, bool) or not math.isfinite(value):
    raise UserError(f"model field {key} must be a finite number, got {value!r}")
  return float(value)


def _boolean(key: str, value: Any) -> bool:
  if not isinstance(value, bool):
    raise UserError(f"model field {key} must be True or False, got {value!r}")
  return value


def _positive(key: str, value: Any) -> int:
  if _integer(key, value) < 1:
    raise UserError(f"model field {key} must be at least 1, got {value!r}")
  return int(value)


def _positive_number(key: str, value: Any) -> float:
  if not _number(key, value) > 0:
    raise UserError(f"model field {key} must be above 0, got {value!r}")
  return float(value)


def _rate(key: str, value: Any) -> float:
  if not 0 <= _number(key, value) < 1:
    raise UserError(f"model field {key} is a rate in [0, 1), got {value!r}")
  return float(value)


def _dtype(key: str, value: Any) -> Any:
  known = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
  try:
    return known[jnp.dtype(value).name]
  except (TypeError, KeyError):
    raise UserError(
      f'model field {key} must be "float32" or "bfloat16" (parameters are '
      f"always float32), got {value!r}"
    ) from None


def _sizes(key: str, value: Any) -> tuple[int, ...]:
  if isinstance(value, str) or not isinstance(value, Sequence) or not value:
    raise UserError(f"model field {key} must be a list of integers, got {value!r}")
  return tuple(_positive(key, v) for v in value)


def _module(key: str, value: Any) -> nn.Module | None:
  if value is not None and not isinstance(value, nn.Module):
    raise UserError(f"model field {key} must be a Linen module, got {value!r}")
  return value


PositiveInt = Annotated[int, _positive]
PositiveFloat = Annotated[float, _positive_number]
Rate = Annotated[float, _rate]
Dtype = Annotated[Any, _dtype]
Sizes = Annotated[tuple, _sizes]  # of integers, one for each stage
Module = Annotated[nn.Module | None, _module]

_PLAIN: dict[Any, Check] = {bool: _boolean, int: _integer, float: _number}


def _check_of(annotation: Any) -> Check:
  if typing.get_origin(annotation) is Annotated:
    return typing.get_args(annotation)[1]
  if typing.get_origin(annotation) is typing.Literal:
    choices = typing.get_args(annotation)

    def choose(key: str, value: Any) -> Any:
      if value not in choices:
        known = ", ".join(f'"{c}"' for c in choices)
        raise UserError(f"model field {key} must be one of {known}, got {value!r}")
      return value

    return choose
  return _PLAIN[annotation]


def annotations(module: type[nn.Module]) -> dict[str, Any]:
  """Returns the annotations of a model's fields by name."""
  out = {}
  for base in reversed(module.__mro__):
    if issubclass(base, nn.Module) and base is not nn.Module:
      out |= inspect.get_annotations(base)
  return {key: kind for key, kind in out.items() if key not in ("name", "parent")}


def config_type(annotation: Any) -> type | None:
  """Returns the type of a config key for a field, None for what no config can hold."""
  if annotation in _PLAIN:
    return annotation
  if typing.get_origin(annotation) is typing.Literal or annotation is Dtype:
    return str
  kind = typing.get_args(annotation)[0]
  return kind if kind in (int, float, tuple) else None


def check(module: type[nn.Module], values: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the values as the module class wants them.

  Args:
    module: a Linen class, its fields annotated as above.
    values: by the names of fields.

  Raises:
    UserError: no such field (the nearest is named), a wrong type, or a value out of range.
  """
  checks = {key: _check_of(kind) for key, kind in annotations(module).items()}
  for key in values:
    if key not in checks:
      raise unknown(f"field of {module.__name__}", key, checks)
  return {key: checks[key](key, value) for key, value in values.items()}
