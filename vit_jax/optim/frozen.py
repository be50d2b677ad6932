"""Parameters that training leaves alone.

A frozen parameter is a constant of the loss, so that no backward pass is computed for what lies
before the first trained one; its update is exactly zero, without weight decay; it has no optimiser
state and no part in the global norm of the gradient. A BatchNorm whose own parameters are all
frozen also keeps its statistics: it normalises with the running ones, as in evaluation, and leaves
them as they are. Dropout and drop path act as the config says.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from vit_jax.errors import UserError
from vit_jax.optim import groups

# Everything but the heads, that of a distilled model included: the linear probe.
BACKBONE = r"(?!head(_dist)?/).*"


def mask(patterns: Sequence[str], params: optax.Params, always: Sequence[str] = ()) -> Any:
  """Returns which parameters are frozen, as a tree of bools like `params`.

  Args:
    patterns: regular expressions for the whole "/"-joined paths of parameters.
    params: tree of arrays or of their shapes; parameters stacked over layers are one leaf.
    always: further such expressions, a model's own for its constant tables; these may match
      nothing.

  Raises:
    UserError: no list of regular expressions, one that matches no parameter (the nearest is
      named), or nothing left to train.
  """
  if isinstance(patterns, str) or not all(isinstance(p, str) for p in patterns):
    raise UserError(
      'config.freeze must be a list of regular expressions, e.g. ("embedding/.*",), '
      f"got {patterns!r}"
    )
  names = groups.path_names(params)
  compiled = [groups.compile_pattern("config.freeze", p) for p in patterns]
  groups.check_matches("config.freeze", compiled, names)
  compiled += [groups.compile_pattern("frozen", p) for p in always]
  flags = [any(p.fullmatch(name) for p in compiled) for name in names]
  if all(flags):
    raise UserError(
      f"config.freeze={tuple(patterns)} freezes every parameter: leave something to train, such as "
      f"the head with {(BACKBONE,)}"
    )
  return jax.tree.unflatten(jax.tree.structure(params), flags)


def hide(frozen: Any, tree: Any) -> Any:
  """Returns the tree with None, which has no leaves, in the place of what is frozen."""
  return jax.tree.map(lambda f, x: None if f else x, frozen, tree)


def show(trained: Any, whole: Any) -> Any:
  """Returns what `hide` has left, and the rest out of `whole`."""
  return jax.tree.map(
    lambda x, y: y if x is None else x, trained, whole, is_leaf=lambda x: x is None
  )


def leave_alone(
  tx: optax.GradientTransformationExtraArgs, frozen: Any
) -> optax.GradientTransformationExtraArgs:
  """Returns the optimiser of all parameters that is `tx` on the trained ones.

  Args:
    tx: what it sees has None in the place of frozen parameters and of their gradients.
    frozen: see `mask`. The gradients of frozen parameters may be anything, or None.
  """

  def init(params: optax.Params) -> optax.OptState:
    return tx.init(hide(frozen, params))

  def update(
    updates: optax.Updates, state: optax.OptState, params: optax.Params, **extra: Any
  ) -> tuple[optax.Updates, optax.OptState]:
    updates, state = tx.update(hide(frozen, updates), state, hide(frozen, params), **extra)
    return show(updates, jax.tree.map(jnp.zeros_like, params)), state

  return optax.GradientTransformationExtraArgs(init, update)


def _norms(frozen: Any) -> set[str]:
  """Returns the paths of the modules whose own parameters are all frozen."""
  found: dict[str, bool] = {}
  for path, flag in jax.tree_util.tree_leaves_with_path(frozen):
    module = groups.path_name(path[:-1])
    found[module] = found.get(module, True) and flag
  return {module for module, flag in found.items() if flag}


@contextmanager
def hold_statistics(frozen: Any) -> Iterator[None]:
  """Lets every BatchNorm that is frozen act as in evaluation while a model is applied.

  Args:
    frozen: see `mask`; None: no parameter is.
  """
  held = _norms(frozen)

  def intercept(
    call: Callable[..., Any],
    args: tuple,
    kwargs: dict[str, Any],
    context: nn.module.InterceptorContext,
  ) -> Any:
    module = context.module
    if isinstance(module, nn.BatchNorm) and "/".join(module.path) in held:
      # The flag is an attribute or an argument, and Linen refuses both at once.
      if module.use_running_average is None:
        return call(args[0], **{**kwargs, "use_running_average": True})
      object.__setattr__(module, "use_running_average", True)
    return call(*args, **kwargs)

  with nn.intercept_methods(intercept):
    yield
