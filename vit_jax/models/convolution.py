"""What the residual networks share: convolutions, stems and stages."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vit_jax.models.encoder import Encoder, Remat, linear_rates, rematerialize
from vit_jax.models.max_pool import max_pool

Stem = Literal["imagenet", "cifar"]

# He et al., 1502.01852, §2.2, by the backward case as in PyTorch's ResNets: variance
# 2 / (outputs * height * width).
HE_FAN_OUT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def _standardized(kernel: jax.Array, epsilon: float) -> jax.Array:
  """Returns a kernel [H, W, I, O] with mean 0 and variance 1 for each output."""
  kernel = kernel - jnp.mean(kernel, axis=(0, 1, 2), keepdims=True)
  variance = jnp.mean(kernel * kernel, axis=(0, 1, 2), keepdims=True)
  return kernel * jax.lax.rsqrt(variance + epsilon)


class Conv(nn.Module):
  """A square convolution without bias, padded by (size - 1) / 2 pixels on every side.

  That is PyTorch's padding; XLA's "SAME" puts less before the image than behind it where the
  stride is 2.

  Attributes:
    features: number of output channels.
    size: height and width of the kernel; odd.
    stride: in both directions.
    standardize: whether the kernel is standardised before use (1903.10520, §3): for each output
      channel its weights' mean is taken away and they are divided by sqrt(variance + 1e-8).
    dtype: of computation.
  """

  features: int
  size: int = 1
  stride: int = 1
  standardize: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, H, W, C] to [B, ceil(H / stride), ceil(W / stride), features]."""
    shape = (self.size, self.size, x.shape[-1], self.features)
    kernel = self.param("kernel", HE_FAN_OUT, shape)
    kernel = _standardized(kernel, 1e-8) if self.standardize else kernel
    return jax.lax.conv_general_dilated(
      x.astype(self.dtype),
      kernel.astype(self.dtype),
      (self.stride, self.stride),
      [(self.size // 2, self.size // 2)] * 2,
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def stem_conv(stem: Stem, width: int, *, standardize: bool = False, dtype: Any) -> Conv:
  """Returns the first convolution: 7 x 7 with stride 2, for "cifar" 3 x 3 with stride 1."""
  size, stride = (7, 2) if stem == "imagenet" else (3, 1)
  return Conv(width, size, stride, standardize, dtype, name="stem_conv")


def stem_pool(stem: Stem, x: jax.Array, padding: float = -jnp.inf) -> jax.Array:
  """Pools 3 x 3 windows with stride 2, for "cifar" not at all; see `max_pool`."""
  return max_pool(x, padding) if stem == "imagenet" else x


class Stage(nn.Module):
  """Blocks at one resolution: the first changes resolution and width, the rest are alike.

  Parameters are in `first` and in `rest/block_0`, ... or, with `scan`, `rest/blocks`.

  Attributes:
    block: the class of the blocks, a ResidualBlock with the fields `stride` and `project`.
    fields: of the blocks.
    stride: of the first.
    scan: see Encoder.
    remat: see Encoder.
  """

  block: type[nn.Module]
  fields: Mapping[str, Any]
  stride: int
  scan: bool = False
  remat: Remat = "none"

  @nn.compact
  def __call__(self, x: jax.Array, rates: np.ndarray) -> jax.Array:
    """Maps [B, H, W, C] to [B, H / stride, W / stride, D]; a rate of drop path for each block."""
    first = rematerialize(self.block, self.remat)
    x, _ = first(**self.fields, stride=self.stride, project=True, name="first")(x, rates[0])
    if len(rates) == 1:
      return x
    return Encoder(self.block, self.fields, self.scan, self.remat, name="rest")(x, rates[1:])


def stages(
  x: jax.Array,
  block: type[nn.Module],
  fields: Mapping[str, Any],
  *,
  width: int,
  depths: Sequence[int],
  drop_path: float,
  scan: bool,
  remat: Remat,
) -> jax.Array:
  """Calls `stage_0`, `stage_1`, ...; all but the first halve the resolution.

  Args:
    x: [B, H, W, C], the stem's output.
    block: see Stage; its field `width` is that of the bottleneck, which doubles with each stage.
    fields: of the blocks, but for their width.
    width: of the first stage's bottlenecks.
    depths: numbers of blocks.
    drop_path: rate of the last block, rising linearly from 0 at the first (1603.09382, §3).
    scan: see Encoder.
    remat: see Encoder.
  """
  rates = np.split(linear_rates(drop_path, sum(depths)), np.cumsum(depths)[:-1])
  for i, own in enumerate(rates):
    stage_fields = {**fields, "width": width * 2**i}
    stage = Stage(block, stage_fields, 1 if i == 0 else 2, scan, remat, name=f"stage_{i}")
    x = stage(x, own)
  return x
