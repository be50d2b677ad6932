"""Multi-head attention (Vaswani et al., 1706.03762, §3.2)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vit_jax.models import target, tpu_attention
from vit_jax.models.dense import Dense

Change = Callable[[jax.Array], jax.Array]


def _flash_can(query: jax.Array) -> bool:
  """Whether cuDNN's flash attention is there and takes these heads."""
  head_dim = query.shape[-1]
  return (
    target.platform() == "gpu"
    and query.dtype == jnp.bfloat16
    and head_dim <= 128
    and head_dim % 8 == 0
  )


def attend(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  *,
  bias: jax.Array | None = None,
  scale: float | None = None,
  change_scores: Change | None = None,
  change_weights: Change | None = None,
) -> jax.Array:
  """Scaled dot-product attention; the softmax is in float32 whatever the dtype.

  The scores are sums in float32, too, but stored in the dtype of `query`: that of bfloat16 models
  is half the memory traffic of their largest arrays, and what PyTorch's autocast does.

  Where nothing has to see the weights, it is cuDNN's flash attention on GPUs in bfloat16, and
  `tpu_attention` on TPUs in bfloat16. Elsewhere it is written out: on CPU
  `jax.nn.dot_product_attention` takes 1.1 to 1.9 times as long for the value and its gradient.

  Args:
    query: [B, Q, H, D], H heads of D dimensions.
    key: [B, K, H, D].
    value: [B, K, H, D].
    bias: added to the scores, broadcast to [B, H, Q, K]; a mask is a bias of large negatives.
    scale: of the scores; 1 / sqrt(D) if None.
    change_scores: what happens to the float32 scores [B, H, Q, K] before the softmax.
    change_weights: what happens to the weights [B, H, Q, K] after it.

  Returns:
    [B, Q, H, D] in the dtype of `value`.
  """
  scale = query.shape[-1] ** -0.5 if scale is None else scale
  plain = bias is None and change_scores is None and change_weights is None
  if plain and _flash_can(query):
    return jax.nn.dot_product_attention(query, key, value, scale=scale, implementation="cudnn")
  # The heads go next to the batch here, once; inside an einsum XLA moves them for each product.
  query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
  if plain and query.dtype == jnp.bfloat16 and target.platform() == "tpu":
    return jnp.swapaxes(tpu_attention.attend(query * scale, key, value), 1, 2)
  scores = jnp.einsum("bhqd,bhkd->bhqk", query * scale, key).astype(jnp.float32)
  if bias is not None:
    scores = scores + bias
  if change_scores is not None:
    scores = change_scores(scores)
  weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
  if change_weights is not None:
    weights = change_weights(weights)
  return jnp.swapaxes(jnp.einsum("bhqk,bhkd->bhqd", weights, value), 1, 2)


class TalkingHeads(nn.Module):
  """Mixes the heads of scores or weights (Shazeer et al., 2003.02436): a dense layer over H.

  Attributes:
    dtype: of computation.
    kernel_init: initialiser.
  """

  dtype: Any = jnp.float32
  kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, H, Q, K] to the same shape."""
    heads = x.shape[1]
    kernel = self.param("kernel", self.kernel_init, (heads, heads)).astype(self.dtype)
    bias = self.param("bias", nn.initializers.zeros, (heads,)).astype(self.dtype)
    y = jnp.einsum("bhqk,hg->bgqk", x.astype(self.dtype), kernel)
    return (y + bias[:, None, None]).astype(x.dtype)


class Attention(nn.Module):
  """Projects to query, key and value, attends, and projects back.

  Kernels are [D, H, D / H] and [H, D / H, D], initialised as the D x D matrix that they are.
  The softmax's weights [B, H, Q, K] are sown as the intermediate "attention_weights".

  Attributes:
    num_heads: H; divides D.
    dtype: of computation.
    qkv_bias: whether queries, keys and values have biases.
    scale: of the scores; 1 / sqrt(D / H) if None.
    talking_heads: mix the heads before the softmax ("talk_scores") and after it
      ("talk_weights"), as CaiT does (2103.17239, §4).
    dropout: rate of dropped weights.
    train: whether dropout acts.
    kernel_init: initialiser; Xavier uniform as in big_vision and vit_jax.
  """

  num_heads: int
  dtype: Any = jnp.float32
  qkv_bias: bool = True
  scale: float | None = None
  talking_heads: bool = False
  dropout: float = 0.0
  train: bool = False
  kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()

  @nn.compact
  def __call__(
    self, queries: jax.Array, inputs: jax.Array, bias: jax.Array | None = None
  ) -> jax.Array:
    """Lets `queries` [B, Q, D] look at `inputs` [B, K, D]; returns [B, Q, D].

    Args:
      queries: what looks.
      inputs: what is looked at.
      bias: added to the scores, broadcast to [B, H, Q, K].
    """
    width = inputs.shape[-1]
    heads = (self.num_heads, width // self.num_heads)
    dense = partial(Dense, kernel_init=self.kernel_init, dtype=self.dtype)
    project = partial(dense, heads, use_bias=self.qkv_bias)
    query = project(name="query")(queries)
    key, value = project(name="key")(inputs), project(name="value")(inputs)
    talk_scores, talk_weights = (
      TalkingHeads(self.dtype, self.kernel_init, name=name) if self.talking_heads else None
      for name in ("talk_scores", "talk_weights")
    )
    drops = self.dropout > 0 and self.train
    asked = self.is_mutable_collection("intermediates")

    def change_weights(weights: jax.Array) -> jax.Array:
      self.sow("intermediates", "attention_weights", weights)
      if talk_weights is not None:
        weights = talk_weights(weights)
      return nn.Dropout(self.dropout, deterministic=False)(weights) if drops else weights

    y = attend(
      query,
      key,
      value,
      bias=bias,
      scale=self.scale,
      change_scores=talk_scores,
      change_weights=change_weights if drops or asked or self.talking_heads else None,
    )
    return dense((width,), axes=2, name="out")(y)
