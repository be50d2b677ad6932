"""Soft splits and token blocks: how T2T-ViT makes tokens (Yuan et al., 2101.11986, §3.1)."""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from vit_jax.errors import UserError
from vit_jax.models.attention import attend
from vit_jax.models.dense import Dense
from vit_jax.models.encoder import ResidualBlock
from vit_jax.models.layers import NORMAL, LayerNorm, Mlp

EPSILON = 1e-5  # of all norms

TokenBlockName = Literal["performer", "transformer"]


def window(stride: int) -> tuple[int, int]:
  """Returns (kernel, padding) of the soft split with this stride.

  The paper's are 7 and 2 for stride 4, 3 and 1 for stride 2: the kernel is 2 * stride - 1. It is
  at least 3, so that windows overlap at stride 1 too.
  """
  return max(3, 2 * stride - 1), max(1, stride // 2)


def grid(size: int, stride: int) -> int:
  """Returns how many windows a soft split has along an axis of `size`; 0 if it does not fit.

  It does not fit if there is no window at all, or if the last pixels are in none.
  """
  kernel, padding = window(stride)
  windows = (size + 2 * padding - kernel) // stride + 1
  covered = (windows - 1) * stride - padding + kernel
  return windows if windows > 0 and covered >= size else 0


def grids(size: int, strides: Sequence[int]) -> list[int]:
  """Returns the sides of the grids after each soft split of an image, 0 where one does not fit."""
  return list(itertools.accumulate(strides, grid, initial=size))[1:]


def check_grids(size: int, strides: Sequence[int]) -> None:
  """Raises UserError, with the nearest size that fits, unless all soft splits fit the image."""
  if all(grids(size, strides)):
    return
  candidates = (size + d * sign for d in itertools.count(1) for sign in (1, -1))
  nearest = next(n for n in candidates if n > 0 and all(grids(n, strides)))
  raise UserError(
    f"image_size={size} does not fit: soft splits with strides={tuple(strides)} leave out its "
    f"last pixels; use {nearest} or other strides"
  )


def soft_split(x: jax.Array, stride: int) -> jax.Array:
  """Cuts a grid into overlapping windows (2101.11986, §3.1, "soft split").

  Args:
    x: [B, S, S, C]; outside are zeros.
    stride: between windows; see `window` for their size.

  Returns:
    [B, T, T, C * kernel * kernel], T = grid(S, stride); a token has the window's pixels of the
    first channel, row by row, then those of the second: the order of PyTorch's Unfold.
  """
  kernel, padding = window(stride)
  side = grid(x.shape[1], stride)
  x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
  end = (side - 1) * stride + 1
  # Slices: the gradient of `lax.conv_general_dilated_patches` takes 5 to 9 times as long on CPU.
  parts = [
    x[:, i : i + end : stride, j : j + end : stride] for i in range(kernel) for j in range(kernel)
  ]
  return jnp.stack(parts, axis=-1).reshape(x.shape[0], side, side, -1)


class TokenBlock(ResidualBlock, kw_only=True):
  """v + out(mix(k, q, v)), then x + mlp(norm2(x)), with k, q, v = projections of norm1(x).

  The input has another width than the output, so the values take its place in the first residual.
  One head; norms as in PyTorch (epsilon 1e-5), kernels normal 0.02, biases zero as in the official
  code. Subclasses say how tokens mix.

  Attributes:
    width: of the output, of k, q, v, and of the MLP's hidden layer.
  """

  width: int
  qkv_bias = False

  @nn.compact
  def __call__(self, x: jax.Array, rate: jax.typing.ArrayLike = 0.0) -> tuple[jax.Array, None]:
    """Maps [B, N, D] to [B, N, width]."""
    dense = partial(Dense, (self.width,), kernel_init=NORMAL, dtype=self.dtype)
    y = LayerNorm(self.dtype, EPSILON, name="norm1")(x)
    key, query, value = (
      dense(use_bias=self.qkv_bias, name=name)(y) for name in ("key", "query", "value")
    )
    y = dense(name="out")(self.mix(key, query, value, x.shape[-1]))
    x = value + self.end_branch(y, rate)
    y = LayerNorm(self.dtype, EPSILON, name="norm2")(x)
    y = Mlp(
      self.width,
      gelu="erf",
      dtype=self.dtype,
      kernel_init=NORMAL,
      bias_init=nn.initializers.zeros,
      name="mlp",
    )(y)
    return x + self.end_branch(y, rate), None

  def mix(self, key: jax.Array, query: jax.Array, value: jax.Array, inputs: int) -> jax.Array:
    """Returns [B, N, width] from three of these; `inputs` is the width before the projections."""
    raise NotImplementedError


class TokenTransformer(TokenBlock, kw_only=True):
  """Softmax attention, its scores scaled by 1 / sqrt(D) with D the width of the input.

  The weights [B, 1, N, N] are sown as the intermediate "attention_weights".
  """

  def mix(self, key: jax.Array, query: jax.Array, value: jax.Array, inputs: int) -> jax.Array:
    """See TokenBlock."""
    query, key, value = (x[:, :, None] for x in (query, key, value))

    def note(weights: jax.Array) -> jax.Array:
      self.sow("intermediates", "attention_weights", weights)
      return weights

    asked = self.is_mutable_collection("intermediates")
    scale = inputs**-0.5
    return attend(query, key, value, scale=scale, change_weights=note if asked else None)[:, :, 0]


def performer_attention(
  query: jax.Array, key: jax.Array, value: jax.Array, features: jax.Array
) -> jax.Array:
  """Attention by positive random features (Performer, Choromanski et al., 2009.14794, §2.3).

  With phi(x) = exp(w x - |x|^2 / 2) / sqrt(m), the result is
  phi(q) (phi(k)^T v) / (phi(q) sum phi(k) + 1e-8): approximately softmax attention with unscaled
  scores, and linear in the number of tokens.

  Sums of features leave the range of float16 and the precision of bfloat16, so all of it is in
  float32. There it cannot overflow: no exponent is larger than |w|^2 / 2.

  Args:
    query: [B, Q, D].
    key: [B, K, D].
    value: [B, K, V].
    features: w, [m, D].

  Returns:
    float32 [B, Q, V].
  """

  def phi(x: jax.Array) -> jax.Array:
    x = x.astype(jnp.float32)
    # An error here is exponentiated: no TF32 or bfloat16 passes on accelerators.
    wx = jnp.einsum("bnd,md->bnm", x, features, precision="highest")
    norms = jnp.sum(x * x, axis=-1, keepdims=True)
    return jnp.exp(wx - norms / 2) * len(features) ** -0.5

  queries, keys = phi(query), phi(key)
  sums = jnp.einsum("bqm,bm->bq", queries, keys.sum(axis=1))
  mixed = jnp.einsum("bkv,bkm->bvm", value.astype(jnp.float32), keys)
  mixed = jnp.einsum("bqm,bvm->bqv", queries, mixed)
  return mixed / (sums[..., None] + 1e-8)


class TokenPerformer(TokenBlock, kw_only=True):
  """Attention by width / 2 random features; see `performer_attention`.

  Their rows ("features" [width / 2, width]) are orthogonal with norm sqrt(width / 2), drawn once
  and then frozen.
  """

  qkv_bias = True

  def mix(self, key: jax.Array, query: jax.Array, value: jax.Array, inputs: int) -> jax.Array:
    """See TokenBlock."""
    m = self.width // 2
    features = self.param("features", nn.initializers.orthogonal(m**0.5), (m, self.width))
    features = jax.lax.stop_gradient(features)
    return performer_attention(query, key, value, features).astype(self.dtype)


TOKEN_BLOCKS: dict[str, type[TokenBlock]] = {
  "performer": TokenPerformer,
  "transformer": TokenTransformer,
}
