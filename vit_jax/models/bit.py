"""BiT: residual networks without batch statistics (Kolesnikov et al., 1912.11370)."""

import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vit_jax.errors import UserError
from vit_jax.models.convolution import Conv, Stem, stages, stem_conv, stem_pool
from vit_jax.models.encoder import Remat, ResidualBlock
from vit_jax.models.family import Family, Variant
from vit_jax.models.fields import Dtype, PositiveInt, Rate, Sizes
from vit_jax.models.layers import check_images, head
from vit_jax.models.output import Output
from vit_jax.models.resnet import DEPTHS

GROUPS = 32


def _norm_relu(name: str, dtype: Any, x: jax.Array) -> jax.Array:
  norm = nn.GroupNorm(GROUPS, epsilon=1e-5, use_fast_variance=False, dtype=dtype, name=name)
  return nn.relu(norm(x))


class PreactBottleneck(ResidualBlock, kw_only=True):
  """x + conv3(relu(norm3(conv2(relu(norm2(conv1(z))))))), z = relu(norm1(x)).

  The bottleneck with norms and activations before the convolutions (1603.05027, §4), group
  normalisation (1803.08494) and standardised kernels; the stride is in the 3 x 3 convolution. z is
  sown as the intermediate "activations".

  No scale starts at zero: no norm follows the branch's last convolution, and one before it would
  leave an activation without a gradient.

  Attributes:
    width: channels between; the block's output has 4 times as many.
    stride: of the 3 x 3 convolution and of the shortcut.
    project: whether the shortcut is a 1 x 1 convolution of z (else x itself).
  """

  width: int
  stride: int = 1
  project: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, rate: jax.typing.ArrayLike) -> tuple[jax.Array, None]:
    """Maps [B, H, W, C] to [B, H / stride, W / stride, 4 * width]; see ResidualBlock."""
    conv = partial(Conv, standardize=True, dtype=self.dtype)
    z = _norm_relu("norm1", self.dtype, x)
    self.sow("intermediates", "activations", z)
    if self.project:
      x = conv(4 * self.width, stride=self.stride, name="shortcut_conv")(z)
    y = _norm_relu("norm2", self.dtype, conv(self.width, name="conv1")(z))
    y = conv(self.width, 3, self.stride, name="conv2")(y)
    y = conv(4 * self.width, name="conv3")(_norm_relu("norm3", self.dtype, y))
    return x + self.end_branch(y, rate), None


class BiT(nn.Module):
  """Stem, four stages of pre-activation bottlenecks, norm, mean over the pixels, head.

  All convolutions have standardised kernels, so that no statistics of a batch are needed. The
  stem's max pooling sees zeros around the image, as in the published models.

  Initialisation: convolutions He normal by fan-out (their scale does not matter), norm scales one,
  the head's kernel zero (1912.11370, §3.3 and the official code).

  Parameter paths: stem_conv, stage_0/first/{norm1,conv1,norm2,conv2,norm3,conv3,shortcut_conv},
  stage_0/rest/block_0/... (with `scan`: stage_0/rest/blocks/...), norm, head. Parameters are
  float32.

  Attributes:
    num_classes: number of logits.
    image_size: height and width in pixels.
    width: channels of the stem and of the first stage's bottlenecks, a multiple of 32; they
      double with each stage, and its output has 4 times as many.
    depths: number of blocks of each stage.
    stem: "imagenet", 7 x 7 pixels with stride 2 and max pooling; "cifar", for small images, 3 x 3
      with stride 1.
    drop_path: rate of stochastic depth at the last block, rising linearly from 0 at the first.
    head_zeroinit: start the head's kernel at zero (else normal 0.01).
    head_bias_init: start of the head's bias, e.g. -log(num_classes) for sigmoid losses.
    dtype: of computation, float32 or bfloat16; norm statistics, the standardisation of the
      kernels and the head are float32.
    scan: scan over the blocks of a stage that are alike; see Encoder.
    remat: see Encoder.
  """

  num_classes: PositiveInt
  image_size: PositiveInt
  width: PositiveInt = 64
  depths: Sizes = (3, 4, 6, 3)
  stem: Stem = "imagenet"
  drop_path: Rate = 0.0
  head_zeroinit: bool = True
  head_bias_init: float = 0.0
  dtype: Dtype = jnp.float32
  scan: bool = False
  remat: Remat = "none"

  @nn.nowrap
  def check(self) -> None:
    """Raises UserError if the fields contradict each other."""
    if self.width % GROUPS:
      raise UserError(
        f"width={self.width} does not divide into the {GROUPS} groups of the norms: use a "
        f"multiple of {GROUPS}"
      )

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> Output:
    """Classifies images.

    Args:
      images: float [B, image_size, image_size, C], in the range that training used.
      train: whether drop path acts; it then needs rngs={"dropout": key}.

    Raises:
      UserError: images of another size.
    """
    check_images(images, self.image_size)
    x = stem_conv(self.stem, self.width, standardize=True, dtype=self.dtype)(images)
    x = stem_pool(self.stem, x, padding=0.0)
    x = stages(
      x,
      PreactBottleneck,
      dict(has_drop_path=self.drop_path > 0, dtype=self.dtype, train=train),
      width=self.width,
      depths=self.depths,
      drop_path=self.drop_path,
      scan=self.scan,
      remat=self.remat,
    )
    features = jnp.mean(_norm_relu("norm", self.dtype, x), axis=(1, 2), dtype=jnp.float32)
    logits = head(
      self.num_classes,
      kernel_init=nn.initializers.normal(0.01),
      zeroinit=self.head_zeroinit,
      bias=self.head_bias_init,
    )(features)
    return Output(logits, features)


def _lookup(name: str) -> Variant | None:
  match = re.fullmatch(r"BiT-R(?P<depth>50|101|152)x(?P<factor>[1-9])", name)
  if match is None:
    return None
  fields = dict(width=64 * int(match["factor"]), depths=DEPTHS[match["depth"]])
  return Variant(name, BiT, fields, "BiT, 1912.11370")


FAMILY = Family(
  names=tuple(f"BiT-R{shape}" for shape in ("50x1", "50x3", "101x1", "101x3", "152x2", "152x4")),
  lookup=_lookup,
)
