"""Patch embedding, normalisation, MLP and drop path.

GELU and normalisation are recomputed from their inputs in the backward pass. That costs little,
and a scan over layers, which writes out whatever the backward pass needs, gets 1.4 times as fast
on CPU and needs less memory everywhere. `prevent_cse=False` leaves an unrolled model to XLA.
"""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from vit_jax.models.dense import Dense

Gelu = Literal["tanh", "erf"]


def gelu(x: jax.Array, form: Gelu) -> jax.Array:
  """GELU (1606.08415, §2): x * Phi(x), with Phi exact ("erf") or by its tanh approximation."""
  return jax.checkpoint(partial(nn.gelu, approximate=form == "tanh"), prevent_cse=False)(x)


@partial(jax.checkpoint, prevent_cse=False, static_argnums=3)
def _normalize(x: jax.Array, scale: jax.Array, bias: jax.Array, dtype: Any) -> jax.Array:
  x = x.astype(jnp.float32)
  # The variance of the centred values: E[x^2] - E[x]^2 loses its digits where the mean is large.
  x = x - jnp.mean(x, axis=-1, keepdims=True)
  inverse = jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)
  return (x * inverse * scale + bias).astype(dtype)


class LayerNorm(nn.Module):
  """Layer normalisation over the last axis; epsilon 1e-6, statistics in float32.

  Attributes:
    dtype: of the result.
  """

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Normalises float [..., D]."""
    scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
    bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
    return _normalize(x, scale, bias, self.dtype)


class PatchEmbedding(nn.Module):
  """Cuts images into square patches and projects each: a convolution with stride = kernel.

  The kernel [patch, patch, C, width] starts LeCun normal, the bias at zero (as in big_vision).

  Attributes:
    width: of a token.
    patch_size: in pixels.
    dtype: of computation.
  """

  width: int
  patch_size: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    """Maps [B, H, W, C] to [B, H / patch * W / patch, width], row by row."""
    p = self.patch_size
    b, h, w, c = images.shape
    kernel = self.param("kernel", nn.initializers.lecun_normal(), (p, p, c, self.width))
    bias = self.param("bias", nn.initializers.zeros, (self.width,))
    patches = images.astype(self.dtype).reshape(b, h // p, p, w // p, p, c)
    patches = patches.transpose(0, 1, 3, 2, 4, 5).reshape(b, (h // p) * (w // p), p * p * c)
    kernel = kernel.reshape(p * p * c, self.width).astype(self.dtype)
    return patches @ kernel + bias.astype(self.dtype)


class Mlp(nn.Module):
  """Two dense layers with a GELU between; Xavier-uniform kernels, biases normal 1e-6.

  Attributes:
    hidden: width of the hidden layer.
    dropout: rate after the GELU.
    gelu: "tanh" or "erf".
    dtype: of computation.
    train: whether dropout acts.
  """

  hidden: int
  dropout: float = 0.0
  gelu: Gelu = "tanh"
  dtype: Any = jnp.float32
  train: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [..., D] to the same shape."""
    bias_init = nn.initializers.normal(1e-6)
    y = Dense((self.hidden,), bias_init=bias_init, dtype=self.dtype, name="up")(x)
    y = nn.Dropout(self.dropout, deterministic=not self.train)(gelu(y, self.gelu))
    return Dense(x.shape[-1:], bias_init=bias_init, dtype=self.dtype, name="down")(y)


def drop_path(x: jax.Array, rate: jax.typing.ArrayLike, key: jax.Array) -> jax.Array:
  """Stochastic depth (Huang et al., 1603.09382, §3), a sample at a time.

  Args:
    x: output of a residual branch, [B, ...].
    rate: probability in [0, 1) that a sample loses the branch; may be traced.
    key: PRNG key.

  Returns:
    x with some samples zero and the others divided by 1 - rate, so that the mean stays.
  """
  keep = 1.0 - jnp.asarray(rate, jnp.float32)
  mask = jax.random.bernoulli(key, keep, (x.shape[0],) + (1,) * (x.ndim - 1))
  return x * (mask / keep).astype(x.dtype)
