"""Pooling by attention."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vit_jax.models.attention import Attention
from vit_jax.models.layers import Gelu, LayerNorm, Mlp


class MapPool(nn.Module):
  """Multi-head attention pooling (Zhai et al., 2106.04560, §3.2; Lee et al., 1810.00825).

  A learned probe attends to all tokens, and an MLP block with a residual follows:
  y = attention(probe, x); y + mlp(norm(y)). The probe starts Xavier uniform.

  Attributes:
    mlp_dim: hidden width of the MLP.
    num_heads: of the attention.
    gelu: "tanh" or "erf".
    dtype: of computation.
  """

  mlp_dim: int
  num_heads: int
  gelu: Gelu = "tanh"
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps tokens [B, N, D] to [B, D]."""
    b, _, width = x.shape
    probe = self.param("probe", nn.initializers.xavier_uniform(), (1, 1, width))
    probe = jnp.broadcast_to(probe, (b, 1, width)).astype(self.dtype)
    y = Attention(self.num_heads, dtype=self.dtype, name="attention")(probe, x)
    z = LayerNorm(dtype=self.dtype, name="norm")(y)
    y = y + Mlp(self.mlp_dim, gelu=self.gelu, dtype=self.dtype, name="mlp")(z)
    return y[:, 0]
