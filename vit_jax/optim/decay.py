"""Decoupled weight decay with one value per named group of parameters."""

from typing import Any

import jax
import optax

from vit_jax.optim import groups as groups_lib

# A strong decay of the head (of both, where a second is for distillation), a weak one of the body,
# none of biases, norms, embeddings and tokens (Zhai et al., 2106.04560, §3.1). In AdamW's units:
# what is taken off a step is lr(t) * value.
DEFAULT_GROUPS = (("head(_dist)?/kernel", 3.0), (".*kernel.*", 0.03), (".*", 0.0))


def per_parameter(groups: groups_lib.Groups, params: optax.Params) -> Any:
  """Returns the weight decay of each parameter, as a tree of floats like `params`.

  Args and errors: see `groups.assign`; every parameter needs a pattern.
  """
  return groups_lib.assign("weight_decay", groups, params)


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
