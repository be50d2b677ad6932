"""Optimiser moments stored in fewer bits than they are computed in."""

import jax
import jax.numpy as jnp
import optax


def store_as(
  tx: optax.GradientTransformation, field: str, dtype: jax.typing.DTypeLike
) -> optax.GradientTransformation:
  """Rounds one field of a transform's state to `dtype` between steps.

  The step itself runs in float32: the stored moment is widened, updated with float32
  coefficients, used, and only then rounded. optax's own `accumulator_dtype` differs: there a
  Python scalar that multiplies a bfloat16 moment is itself rounded to bfloat16, and 0.9 becomes
  0.8984375.

  Args:
    tx: a transform whose state is a named tuple with float32 arrays in `field`.
    field: name of the field, e.g. "mu" of `optax.scale_by_adam`.
    dtype: of the stored arrays; with float32 the transform is returned as it is.
  """
  dtype = jnp.dtype(dtype)
  if dtype == jnp.float32:
    return tx

  def cast(state: optax.OptState, to: jax.typing.DTypeLike) -> optax.OptState:
    return state._replace(**{field: optax.tree.cast(getattr(state, field), to)})

  def init(params: optax.Params) -> optax.OptState:
    return cast(tx.init(params), dtype)

  def update(
    updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
  ) -> tuple[optax.Updates, optax.OptState]:
    updates, state = tx.update(updates, cast(state, jnp.float32), params)
    return updates, cast(state, dtype)

  return optax.GradientTransformation(init, update)
