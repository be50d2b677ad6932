"""The Transformer encoder: pre-norm blocks, one after the other or scanned."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vit_jax.models.attention import Attention
from vit_jax.models.layers import Gelu, LayerNorm, Mlp, drop_path

Remat = Literal["none", "full", "dots"]

# What the forward pass keeps for the backward pass; everything else is computed again.
_KEEP = {
  "full": jax.checkpoint_policies.nothing_saveable,
  # The outputs of the dense layers; the attention matrices, which have a batch dimension, not.
  "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class Block(nn.Module):
  """x + attention(norm1(x)), then x + mlp(norm2(x)), each branch with dropout and drop path.

  Attributes:
    mlp_dim: hidden width of the MLP.
    num_heads: of the attention.
    dropout: rate, at the end of each branch and inside the MLP.
    has_drop_path: whether drop path acts at all.
    gelu: "tanh" or "erf".
    dtype: of computation and of the residual stream.
    train: whether dropout and drop path act.
  """

  mlp_dim: int
  num_heads: int
  dropout: float = 0.0
  has_drop_path: bool = False
  gelu: Gelu = "tanh"
  dtype: Any = jnp.float32
  train: bool = False

  def _drop(self, y: jax.Array, rate: jax.typing.ArrayLike) -> jax.Array:
    y = nn.Dropout(self.dropout, deterministic=not self.train)(y)
    if self.has_drop_path and self.train:
      y = drop_path(y, rate, self.make_rng("dropout"))
    return y

  @nn.compact
  def __call__(self, x: jax.Array, drop_path_rate: jax.typing.ArrayLike) -> tuple[jax.Array, None]:
    """Maps [B, N, D] to the same shape; the None beside it is what a scan collects."""
    y = LayerNorm(dtype=self.dtype, name="norm1")(x)
    y = Attention(self.num_heads, dtype=self.dtype, name="attention")(y, y)
    x = x + self._drop(y, drop_path_rate)
    y = LayerNorm(dtype=self.dtype, name="norm2")(x)
    y = Mlp(self.mlp_dim, self.dropout, self.gelu, self.dtype, self.train, name="mlp")(y)
    return x + self._drop(y, drop_path_rate), None


class Encoder(nn.Module):
  """`depth` blocks; the rate of drop path rises linearly from 0 at the first to `drop_path`.

  Parameters are in `block_0`, `block_1`, ..., or with `scan` in `blocks`, each with a leading axis
  of size `depth`; `models.stacking` converts. Both compute the same function, but `init` and
  dropout draw other random numbers.

  Attributes:
    depth: number of blocks.
    mlp_dim: see Block.
    num_heads: see Block.
    dropout: see Block.
    drop_path: rate at the last block. A single block is the first and has rate 0.
    gelu: see Block.
    dtype: see Block.
    scan: compile one block and scan over the layers: compile time does not grow with depth.
    remat: what the backward pass computes again to save memory: "none"; "full", everything but
      the inputs of the blocks; "dots", everything but the outputs of dense layers.
    train: see Block.
  """

  depth: int
  mlp_dim: int
  num_heads: int
  dropout: float = 0.0
  drop_path: float = 0.0
  gelu: Gelu = "tanh"
  dtype: Any = jnp.float32
  scan: bool = False
  remat: Remat = "none"
  train: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps tokens [B, N, D] to the same shape."""
    block = Block
    if self.remat != "none":
      # Inside a scan nothing can be merged across the layers, so no barrier is needed.
      block = nn.remat(Block, prevent_cse=not self.scan, policy=_KEEP[self.remat])
    rates = np.linspace(0, self.drop_path, self.depth, dtype=np.float32)
    arguments = dict(
      mlp_dim=self.mlp_dim,
      num_heads=self.num_heads,
      dropout=self.dropout,
      has_drop_path=self.drop_path > 0,
      gelu=self.gelu,
      dtype=self.dtype,
      train=self.train,
    )
    if self.scan:
      scanned = nn.scan(
        block,
        variable_axes={"params": 0, "intermediates": 0},
        split_rngs={"params": True, "dropout": True},
        length=self.depth,
      )
      return scanned(**arguments, name="blocks")(x, rates)[0]
    for i, rate in enumerate(rates):
      x, _ = block(**arguments, name=f"block_{i}")(x, rate)
    return x
