"""A stack of residual blocks: one after the other or scanned, kept or computed again."""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vit_jax.models import target
from vit_jax.models.attention import Attention
from vit_jax.models.layers import Gelu, LayerNorm, Mlp, drop_path

Remat = Literal["none", "full", "dots"]


def _is_layer(primitive: Any, *args: Any, **params: Any) -> Any:
  """Keeps outputs of dense layers and convolutions; attention's, which have a batch axis, not."""
  dots = jax.checkpoint_policies.dots_with_no_batch_dims_saveable(primitive, *args, **params)
  return dots or primitive.name == "conv_general_dilated"


# What the forward pass keeps for the backward pass; everything else is computed again.
_KEEP = {"full": jax.checkpoint_policies.nothing_saveable, "dots": _is_layer}


class ResidualBlock(nn.Module):
  """What every block of an Encoder has: the end of its branches.

  A block is called as `block(x, rate)`, x the tokens [B, N, D] and rate that of drop path (or a
  tree of whatever differs between the blocks; see Encoder), and returns `(x, None)`.

  Attributes:
    dropout: rate at the end of each branch (and where else the block says).
    has_drop_path: whether drop path acts at all.
    dtype: of computation and of the residual stream.
    train: whether dropout and drop path act.
  """

  dropout: float = 0.0
  has_drop_path: bool = False
  dtype: Any = jnp.float32
  train: bool = False

  def end_branch(self, y: jax.Array, rate: jax.typing.ArrayLike) -> jax.Array:
    """Applies dropout and drop path to what a branch adds to the stream."""
    y = nn.Dropout(self.dropout, deterministic=not self.train)(y)
    if self.has_drop_path and self.train:
      y = drop_path(y, rate, self.make_rng("dropout"))
    return y


class Block(ResidualBlock, kw_only=True):
  """x + attention(norm1(x)), then x + mlp(norm2(x)): the pre-norm block of ViT.

  Attributes:
    mlp_dim: hidden width of the MLP, which has dropout inside as well.
    num_heads: of the attention.
    gelu: "tanh", "erf" or "relu", see `layers.gelu`.
    epsilon: of the norms.
    qkv_bias: whether queries, keys and values have biases.
    attention_scale: of the attention's scores; 1 / sqrt(head dimension) if None.
    kernel_init: initialiser of all kernels.
    bias_init: initialiser of the MLP's biases; those of the attention start at zero.
  """

  mlp_dim: int
  num_heads: int
  gelu: Gelu = "tanh"
  epsilon: float = 1e-6
  qkv_bias: bool = True
  attention_scale: float | None = None
  kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()
  bias_init: nn.initializers.Initializer = nn.initializers.normal(1e-6)

  @nn.compact
  def __call__(self, x: jax.Array, rate: jax.typing.ArrayLike) -> tuple[jax.Array, None]:
    """Maps [B, N, D] to the same shape; the None beside it is what a scan collects."""
    y = LayerNorm(self.dtype, self.epsilon, name="norm1")(x)
    y = Attention(
      self.num_heads,
      dtype=self.dtype,
      qkv_bias=self.qkv_bias,
      scale=self.attention_scale,
      kernel_init=self.kernel_init,
      name="attention",
    )(y, y)
    x = x + self.end_branch(y, rate)
    y = LayerNorm(self.dtype, self.epsilon, name="norm2")(x)
    y = Mlp(
      self.mlp_dim,
      self.dropout,
      self.gelu,
      self.dtype,
      self.train,
      self.kernel_init,
      self.bias_init,
      name="mlp",
    )(y)
    return x + self.end_branch(y, rate), None


def linear_rates(rate: float, depth: int) -> np.ndarray:
  """Returns rates of drop path that rise linearly from 0 at the first block (alone: 0)."""
  return np.linspace(0, rate, depth, dtype=np.float32)


def rematerialize(
  block: type[nn.Module], remat: Remat, *, scanned: bool = False
) -> type[nn.Module]:
  """Returns the class of a block whose activations are computed again in the backward pass.

  Args:
    block: the class.
    remat: see Encoder; "none" returns the class itself.
    scanned: whether a scan goes over the block.
  """
  if remat == "none":
    return block
  # Inside a scan nothing can be merged across the layers, so no barrier is needed.
  return nn.remat(block, prevent_cse=not scanned, policy=_KEEP[remat])


class Encoder(nn.Module):
  """Blocks that are alike, one after the other.

  Parameters are in `block_0`, `block_1`, ..., or with `scan` in `blocks`, each with a leading axis
  that counts the blocks; `models.stacking` converts. Both compute the same function, but `init`
  and dropout draw other random numbers.

  Attributes:
    block: the class of the blocks; see ResidualBlock.
    fields: of the blocks.
    scan: compile one block and scan over the layers: compile time does not grow with depth.
    remat: what the backward pass computes again to save memory: "none"; "full", everything but
      the inputs of the blocks; "dots", everything but what dense layers and convolutions return.
  """

  block: type[nn.Module]
  fields: Mapping[str, Any]
  scan: bool = False
  remat: Remat = "none"

  @nn.compact
  def __call__(self, x: jax.Array, each: Any) -> jax.Array:
    """Maps tokens [B, N, D] to the same shape.

    Args:
      x: the tokens.
      each: the second argument of the blocks: an array, or a tree of arrays, whose first axis
        counts the blocks, such as their rates of drop path.
    """
    block = rematerialize(self.block, self.remat, scanned=self.scan)
    depth = len(jax.tree.leaves(each)[0])
    if self.scan:
      scanned = nn.scan(
        block,
        variable_axes={"params": 0, "batch_stats": 0, "intermediates": 0},
        split_rngs={"params": True, "dropout": True},
        length=depth,
      )
      with target.loop():
        return scanned(**self.fields, name="blocks")(x, each)[0]
    for i in range(depth):
      x, _ = block(**self.fields, name=f"block_{i}")(x, jax.tree.map(lambda e, i=i: e[i], each))
    return x
