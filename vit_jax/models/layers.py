"""Patch embedding, normalisation, MLP and drop path.

GELU and normalisation are recomputed from their inputs in the backward pass. That costs little,
and a scan over layers, which writes out whatever the backward pass needs, gets 1.4 times as fast
on CPU and needs less memory everywhere. `prevent_cse=False` leaves an unrolled model to XLA.
"""

import math
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from vit_jax.errors import UserError
from vit_jax.models.dense import Dense

# "relu" stands for no GELU at all: theory about kernels at initialisation is about ReLU networks.
Gelu = Literal["tanh", "erf", "relu"]

# What PyTorch's vision Transformers call "truncated normal, 0.02": they cut it at -2 and 2, that
# is at a hundred standard deviations.
NORMAL = nn.initializers.normal(0.02)

# PyTorch's own default for kernels of convolutions and dense layers: uniform within
# 1 / sqrt(fan_in).
TORCH_UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def torch_bias(fan_in: int) -> nn.initializers.Initializer:
  """PyTorch's own default for the biases beside such kernels."""
  bound = fan_in**-0.5
  return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


# tanh's argument in the approximation of GELU is x (_LINEAR + _CUBIC x^2).
_LINEAR = math.sqrt(2 / math.pi)
_CUBIC = 0.044715 * _LINEAR


def _phi(x: jax.Array) -> jax.Array:
  return 0.5 * jnp.tanh(x * (_LINEAR + _CUBIC * (x * x))) + 0.5


@jax.custom_jvp
def _tanh_gelu(x: jax.Array) -> jax.Array:
  return x * _phi(x)


@_tanh_gelu.defjvp
def _tanh_gelu_jvp(
  primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
  # Fewer operations than differentiating the lines above leaves.
  (x,), (d_x,) = primals, tangents
  phi = _phi(x)
  slope = phi + (phi - phi * phi) * (x * (2 * _LINEAR + 6 * _CUBIC * (x * x)))
  return x * phi, slope * d_x


def gelu(x: jax.Array, form: Gelu) -> jax.Array:
  """GELU (1606.08415, §2): x * Phi(x), with Phi exact ("erf") or by its tanh approximation.

  With "relu" it is max(x, 0), whose derivative at 0 is 0.
  """
  if form == "relu":
    return nn.relu(x)
  fn = _tanh_gelu if form == "tanh" else partial(nn.gelu, approximate=False)
  return jax.checkpoint(fn, prevent_cse=False)(x)


@partial(jax.checkpoint, prevent_cse=False, static_argnums=(3, 4))
def _normalize(
  x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, dtype: Any
) -> jax.Array:
  narrow = x.dtype == jnp.bfloat16
  x = x.astype(jnp.float32)
  mean = jnp.mean(x, axis=-1, keepdims=True)
  centred = x - mean
  if narrow:
    # Both sums in one pass. The digits that the difference loses where the mean is large, an x of
    # 8 bits has lost before: by its rounding the variance is 40 times as far off, or more, with
    # means of up to 300 standard deviations (measured).
    variance = jnp.maximum(jnp.mean(x * x, axis=-1, keepdims=True) - mean * mean, 0)
  else:
    variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
  return (centred * (jax.lax.rsqrt(variance + epsilon) * scale) + bias).astype(dtype)


class LayerNorm(nn.Module):
  """Layer normalisation over the last axis (Ba et al., 1607.06450); statistics in float32.

  Attributes:
    dtype: of the result.
    epsilon: added to the variance. JAX code bases and timm's ViTs have 1e-6, PyTorch's default
      (Swin, Compact Transformers, T2T-ViT) is 1e-5.
  """

  dtype: Any = jnp.float32
  epsilon: float = 1e-6

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Normalises float [..., D]."""
    scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
    bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
    return _normalize(x, scale, bias, self.epsilon, self.dtype)


class PatchEmbedding(nn.Module):
  """Cuts images into square patches and projects each: a convolution with stride = kernel.

  The kernel [patch, patch, C, width] starts LeCun normal (as in big_vision), the bias at zero.

  Attributes:
    width: of a token.
    patch_size: in pixels.
    dtype: of computation.
    kernel_init: initialiser.
    bias_init: initialiser.
  """

  width: int
  patch_size: int
  dtype: Any = jnp.float32
  kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
  bias_init: nn.initializers.Initializer = nn.initializers.zeros

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    """Maps [B, H, W, C] to [B, H / patch * W / patch, width], row by row."""
    p = self.patch_size
    b, h, w, c = images.shape
    kernel = self.param("kernel", self.kernel_init, (p, p, c, self.width))
    bias = self.param("bias", self.bias_init, (self.width,))
    patches = images.astype(self.dtype).reshape(b, h // p, p, w // p, p, c)
    patches = patches.transpose(0, 1, 3, 2, 4, 5).reshape(b, (h // p) * (w // p), p * p * c)
    kernel = kernel.reshape(p * p * c, self.width).astype(self.dtype)
    return patches @ kernel + bias.astype(self.dtype)


class Mlp(nn.Module):
  """Two dense layers with a GELU between.

  The hidden layer's activations are sown as the intermediate "mlp_activations" [..., hidden].

  Attributes:
    hidden: width of the hidden layer.
    dropout: rate after the GELU.
    gelu: "tanh", "erf" or "relu", see `layers.gelu`.
    dtype: of computation.
    train: whether dropout acts.
    kernel_init: initialiser; Xavier uniform as in big_vision and vit_jax.
    bias_init: initialiser; normal 1e-6, as there.
  """

  hidden: int
  dropout: float = 0.0
  gelu: Gelu = "tanh"
  dtype: Any = jnp.float32
  train: bool = False
  kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()
  bias_init: nn.initializers.Initializer = nn.initializers.normal(1e-6)

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [..., D] to the same shape."""
    dense = partial(Dense, kernel_init=self.kernel_init, bias_init=self.bias_init, dtype=self.dtype)
    y = gelu(dense((self.hidden,), costly_input=True, name="up")(x), self.gelu)
    self.sow("intermediates", "mlp_activations", y)
    y = nn.Dropout(self.dropout, deterministic=not self.train)(y)
    return dense(x.shape[-1:], costly_input=True, name="down")(y)


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


def check_images(images: jax.Array, size: int) -> None:
  """Raises UserError unless `images` are [B, size, size, C]."""
  if images.ndim != 4:
    raise UserError(f"images must be [batch, height, width, channels], got shape {images.shape}")
  if images.shape[1:3] != (size, size):
    raise UserError(
      f"the model was made for {size} x {size} pixels, the images have {images.shape[1]} x "
      f"{images.shape[2]}: create it with their image_size"
    )


def check_patches(image_size: int, patch_size: int) -> None:
  """Raises UserError, with the nearest size that fits, unless patches cover the image."""
  if image_size % patch_size:
    near = max(1, round(image_size / patch_size)) * patch_size
    raise UserError(
      f"image_size={image_size} is not a multiple of patch_size={patch_size}: use {near} or "
      "another patch size"
    )


def check_heads(width: int, num_heads: int) -> None:
  """Raises UserError unless the heads of an attention share its width equally."""
  if width % num_heads:
    raise UserError(f"width={width} is not a multiple of num_heads={num_heads}")


def head(
  num_classes: int,
  *,
  name: str = "head",
  kernel_init: nn.initializers.Initializer,
  zeroinit: bool = False,
  bias: float = 0.0,
) -> Dense:
  """Returns the last dense layer, [B, D] to [B, num_classes]; float32 whatever the model's dtype.

  Args:
    num_classes: number of logits.
    name: of the submodule.
    kernel_init: initialiser.
    zeroinit: start the kernel at zero instead.
    bias: what the bias starts at.
  """
  return Dense(
    (num_classes,),
    kernel_init=nn.initializers.zeros if zeroinit else kernel_init,
    bias_init=nn.initializers.constant(bias),
    name=name,
  )
