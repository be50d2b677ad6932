"""Multi-head attention (Vaswani et al., 1706.03762, §3.2)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
  """Scaled dot-product attention without a mask; the softmax is in float32 whatever the dtype.

  Args:
    query: [B, Q, H, D], H heads of D dimensions.
    key: [B, K, H, D].
    value: [B, K, H, D].

  Returns:
    [B, Q, H, D] in the dtype of `value`.
  """
  query = query * query.shape[-1] ** -0.5
  logits = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)
  weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
  return jnp.einsum("bhqk,bkhd->bqhd", weights, value)


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
    init = dict(kernel_init=nn.initializers.xavier_uniform(), dtype=self.dtype)
    heads = (self.num_heads, width // self.num_heads)
    query = nn.DenseGeneral(heads, name="query", **init)(queries)
    key = nn.DenseGeneral(heads, name="key", **init)(inputs)
    value = nn.DenseGeneral(heads, name="value", **init)(inputs)
    return nn.DenseGeneral(width, axis=(-2, -1), name="out", **init)(attend(query, key, value))
