"""Multi-head attention (Vaswani et al., 1706.03762, §3.2)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vit_jax.models.dense import Dense


def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
  """Scaled dot-product attention without a mask; the softmax is in float32 whatever the dtype.

  Args:
    query: [B, Q, H, D], H heads of D dimensions.
    key: [B, K, H, D].
    value: [B, K, H, D].

  Returns:
    [B, Q, H, D] in the dtype of `value`.
  """
  # The heads go next to the batch here, once; inside an einsum XLA moves them for each product.
  query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
  query = query * query.shape[-1] ** -0.5
  logits = jnp.einsum("bhqd,bhkd->bhqk", query, key, preferred_element_type=jnp.float32)
  weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
  return jnp.swapaxes(jnp.einsum("bhqk,bhkd->bhqd", weights, value), 1, 2)


class Attention(nn.Module):
  """Projects to query, key and value, attends, and projects back.

  Kernels [D, H, D / H] and [H, D / H, D] start Xavier uniform on the flattened D x D matrix, the
  biases at zero (as in big_vision and vit_jax).

  Attributes:
    num_heads: H; divides D.
    dtype: of computation.
  """

  num_heads: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, queries: jax.Array, inputs: jax.Array) -> jax.Array:
    """Lets `queries` [B, Q, D] look at `inputs` [B, K, D]; returns [B, Q, D]."""
    width = inputs.shape[-1]
    heads = (self.num_heads, width // self.num_heads)
    query = Dense(heads, dtype=self.dtype, name="query")(queries)
    key = Dense(heads, dtype=self.dtype, name="key")(inputs)
    value = Dense(heads, dtype=self.dtype, name="value")(inputs)
    return Dense((width,), axes=2, dtype=self.dtype, name="out")(attend(query, key, value))
