"""Values for parameters, given by regular expressions for the whole "/"-joined paths of these."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import optax

from vit_jax.errors import UserError
from vit_jax.optim import options

Groups = Sequence[tuple[str, float]]


def path_name(path: jax.tree_util.KeyPath) -> str:
  """Returns the "/"-joined name of a leaf, e.g. "head/kernel"."""
  return jax.tree_util.keystr(path, simple=True, separator="/")


def path_names(params: optax.Params) -> list[str]:
  """Returns the names of all leaves, in the order of `jax.tree.leaves`."""
  return [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]


def compile_pattern(key: str, pattern: str) -> re.Pattern[str]:
  """Compiles one pattern of the option `key`; raises UserError if it is no regular expression."""
  try:
    return re.compile(pattern)
  except re.error as e:
    raise UserError(f"{key} pattern '{pattern}' is no regular expression: {e}") from None


def _parse(key: str, groups: Groups) -> list[tuple[re.Pattern[str], float]]:
  form = f'{key} must be a list of (pattern, value) pairs, e.g. ((".*kernel", 0.1), (".*", 0.0))'
  if isinstance(groups, str) or not isinstance(groups, Sequence):
    raise UserError(f"{form}, got {groups!r}")
  parsed = []
  for group in groups:
    if (
      isinstance(group, str)
      or not isinstance(group, Sequence)
      or len(group) != 2
      or not isinstance(group[0], str)
    ):
      raise UserError(f"{form}, got the entry {group!r}")
    pattern, value = group
    options.check_range(f"{key} of '{pattern}'", value, 0.0)
    parsed.append((compile_pattern(key, pattern), float(value)))
  return parsed


def check_matches(key: str, patterns: Sequence[re.Pattern[str]], names: Sequence[str]) -> None:
  """Raises UserError for a pattern that matches no name: a typo, most likely."""
  for pattern in patterns:
    if not any(pattern.fullmatch(name) for name in names):
      raise options.unmatched(f"{key} pattern", pattern.pattern, names)


def assign(key: str, groups: Groups, params: optax.Params, default: float | None = None) -> Any:
  """Returns the value of each parameter, as a tree of floats like `params`.

  Args:
    key: the option, for errors.
    groups: (pattern, value) pairs, value >= 0; a pattern is a regular expression for the whole
      path of a parameter, and the first that matches gives its value. Lists do as well as tuples.
    params: tree of arrays or of their shapes; parameters stacked over layers are one leaf.
    default: of parameters that no pattern matches; None makes them an error.

  Raises:
    UserError: a malformed group, a parameter that no pattern matches, or a pattern that matches
      no parameter at all.
  """
  parsed = _parse(key, groups)
  names = path_names(params)
  check_matches(key, [pattern for pattern, _ in parsed], names)
  values = []
  for name in names:
    value = next((value for pattern, value in parsed if pattern.fullmatch(name)), default)
    if value is None:
      raise UserError(
        f"{key} has no pattern for the parameter '{name}': add one, e.g. (\".*\", 0.0) at the end"
      )
    values.append(value)
  return jax.tree.unflatten(jax.tree.structure(params), values)
