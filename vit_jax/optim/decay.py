"""Decoupled weight decay with one value per named group of parameters."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import optax

from vit_jax.errors import UserError
from vit_jax.optim import options

Groups = Sequence[tuple[str, float]]

# A strong decay of the head, a weak one of the body, none of biases, norms, embeddings and tokens
# (Zhai et al., 2106.04560, §3.1). In AdamW's units: what is taken off a step is lr(t) * value.
DEFAULT_GROUPS = (("head/kernel", 3.0), (".*kernel.*", 0.03), (".*", 0.0))

_FORM = (
  'weight_decay must be a list of (pattern, value) pairs, e.g. ((".*kernel", 0.1), (".*", 0.0))'
)


def path_name(path: jax.tree_util.KeyPath) -> str:
  """Returns the "/"-joined name of a leaf, e.g. "head/kernel"."""
  return jax.tree_util.keystr(path, simple=True, separator="/")


def _parse(groups: Groups) -> list[tuple[re.Pattern[str], float]]:
  if isinstance(groups, str) or not isinstance(groups, Sequence):
    raise UserError(f"{_FORM}, got {groups!r}")
  parsed = []
  for group in groups:
    if (
      isinstance(group, str)
      or not isinstance(group, Sequence)
      or len(group) != 2
      or not isinstance(group[0], str)
    ):
      raise UserError(f"{_FORM}, got the entry {group!r}")
    pattern, value = group
    options.check_range(f"weight_decay of '{pattern}'", value, 0.0)
    try:
      parsed.append((re.compile(pattern), float(value)))
    except re.error as e:
      raise UserError(f"weight_decay pattern '{pattern}' is no regular expression: {e}") from None
  return parsed


def per_parameter(groups: Groups, params: optax.Params) -> Any:
  """Returns the weight decay of each parameter, as a tree of floats like `params`.

  Args:
    groups: (pattern, value) pairs; a pattern is a regular expression for the whole "/"-joined
      path of a parameter, and the first that matches gives its value. Lists do as well as tuples.
    params: tree of arrays or of their shapes; parameters stacked over layers are one leaf.

  Raises:
    UserError: a malformed group, a parameter that no pattern matches, or a pattern that matches
      no parameter at all (a typo, most likely).
  """
  parsed = _parse(groups)
  leaves, treedef = jax.tree_util.tree_flatten_with_path(params)
  paths = [path_name(path) for path, _ in leaves]
  for pattern, _ in parsed:
    if not any(pattern.fullmatch(path) for path in paths):
      raise options.unmatched("weight_decay pattern", pattern.pattern, paths)
  values = []
  for path in paths:
    value = next((value for pattern, value in parsed if pattern.fullmatch(path)), None)
    if value is None:
      raise UserError(
        f"weight_decay has no pattern for the parameter '{path}': add one, "
        'e.g. (".*", 0.0) at the end'
      )
    values.append(value)
  return jax.tree_util.tree_unflatten(treedef, values)


def add_decay(values: Any) -> optax.GradientTransformation:
  """Adds value * parameter to each update; stateless.

  Args:
    values: tree of floats from `per_parameter`; where 0, the update is left as it is.
  """

  def update(
    updates: optax.Updates, state: optax.EmptyState, params: optax.Params | None = None
  ) -> tuple[optax.Updates, optax.EmptyState]:
    if params is None:
      raise ValueError("weight decay needs the parameters: tx.update(grads, state, params, ...)")
    updates = jax.tree.map(lambda wd, u, p: u + wd * p if wd else u, values, updates, params)
    return updates, state

  return optax.GradientTransformation(optax.init_empty_state, update)
