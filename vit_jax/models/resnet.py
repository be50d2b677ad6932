"""Residual networks with batch normalisation (He et al., 1512.03385)."""

import re
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from vit_jax.models.convolution import Conv, Stem, stages, stem_conv, stem_pool
from vit_jax.models.encoder import Remat, ResidualBlock
from vit_jax.models.family import Family, Variant
from vit_jax.models.fields import Dtype, PositiveInt, Rate, Sizes
from vit_jax.models.layers import check_images, head
from vit_jax.models.output import Output

# Running statistics move by a tenth per step; the variance is that of the whole global batch.
_BatchNorm = partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5, use_fast_variance=False)


class Bottleneck(ResidualBlock, kw_only=True):
  """relu(shortcut + norm3(conv3(relu(norm2(conv2(relu(norm1(conv1(x)))))))).

  Convolutions of 1 x 1, 3 x 3 and 1 x 1 pixels (1512.03385, §4.1), the stride in the 3 x 3 one
  ("v1.5"). The output's activations are sown as the intermediate "activations".

  The last norm's scale starts at zero, so that the block starts as its shortcut (1706.02677,
  §5.1).

  Attributes:
    width: channels between; the block's output has 4 times as many.
    stride: of the 3 x 3 convolution and of the shortcut.
    project: whether the shortcut is a 1 x 1 convolution with a norm (else the input itself).
  """

  width: int
  stride: int = 1
  project: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, rate: jax.typing.ArrayLike) -> tuple[jax.Array, None]:
    """Maps [B, H, W, C] to [B, H / stride, W / stride, 4 * width]; see ResidualBlock."""
    conv = partial(Conv, dtype=self.dtype)
    norm = partial(_BatchNorm, use_running_average=not self.train, dtype=self.dtype)
    y = nn.relu(norm(name="norm1")(conv(self.width, name="conv1")(x)))
    y = nn.relu(norm(name="norm2")(conv(self.width, 3, self.stride, name="conv2")(y)))
    y = conv(4 * self.width, name="conv3")(y)
    y = norm(scale_init=nn.initializers.zeros, name="norm3")(y)
    if self.project:
      x = conv(4 * self.width, stride=self.stride, name="shortcut_conv")(x)
      x = norm(name="shortcut_norm")(x)
    y = nn.relu(x + self.end_branch(y, rate))
    self.sow("intermediates", "activations", y)
    return y, None


class ResNet(nn.Module):
  """Stem, four stages of bottlenecks, mean over the pixels, head; "v1.5".

  In training the norms use the mean and the variance of the global batch, over all devices, and
  the collection "batch_stats" (apply with `mutable=["batch_stats"]`) keeps running means of both;
  in evaluation they use those.

  Initialisation: convolutions He normal by fan-out (1502.01852, §2.2); norm scales one, but zero
  for the last of each block; the head's kernel normal with standard deviation 0.01 (1706.02677,
  §5.1).

  Parameter paths: stem_conv, stem_norm, stage_0/first/{conv1,norm1,conv2,norm2,conv3,norm3,
  shortcut_conv,shortcut_norm}, stage_0/rest/block_0/... (with `scan`: stage_0/rest/blocks/...),
  head. Parameters and statistics are float32.

  Attributes:
    num_classes: number of logits.
    image_size: height and width in pixels.
    width: channels of the stem and of the first stage's bottlenecks; they double with each
      stage, and its output has 4 times as many.
    depths: number of blocks of each stage.
    stem: "imagenet", 7 x 7 pixels with stride 2 and max pooling; "cifar", for small images, 3 x 3
      with stride 1 (1512.03385, §4.2).
    drop_path: rate of stochastic depth at the last block, rising linearly from 0 at the first.
    head_zeroinit: start the head's kernel at zero.
    head_bias_init: start of the head's bias, e.g. -log(num_classes) for sigmoid losses.
    dtype: of computation, float32 or bfloat16; statistics and head are float32.
    scan: scan over the blocks of a stage that are alike; see Encoder.
    remat: see Encoder.
  """

  num_classes: PositiveInt
  image_size: PositiveInt
  width: PositiveInt = 64
  depths: Sizes = (3, 4, 6, 3)
  stem: Stem = "imagenet"
  drop_path: Rate = 0.0
  head_zeroinit: bool = False
  head_bias_init: float = 0.0
  dtype: Dtype = jnp.float32
  scan: bool = False
  remat: Remat = "none"

  @nn.nowrap
  def check(self) -> None:
    """Raises UserError if the fields contradict each other; here they never do."""

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> Output:
    """Classifies images.

    Args:
      images: float [B, image_size, image_size, C], in the range that training used.
      train: whether norms use the batch's statistics (and update the running ones) and drop path
        acts; it then needs rngs={"dropout": key}.

    Raises:
      UserError: images of another size.
    """
    check_images(images, self.image_size)
    x = stem_conv(self.stem, self.width, dtype=self.dtype)(images)
    norm = _BatchNorm(use_running_average=not train, dtype=self.dtype, name="stem_norm")
    x = stem_pool(self.stem, nn.relu(norm(x)))
    x = stages(
      x,
      Bottleneck,
      dict(has_drop_path=self.drop_path > 0, dtype=self.dtype, train=train),
      width=self.width,
      depths=self.depths,
      drop_path=self.drop_path,
      scan=self.scan,
      remat=self.remat,
    )
    features = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
    logits = head(
      self.num_classes,
      kernel_init=nn.initializers.normal(0.01),
      zeroinit=self.head_zeroinit,
      bias=self.head_bias_init,
    )(features)
    return Output(logits, features)


# Table 1 of the paper; BiT has the same.
DEPTHS = {"50": (3, 4, 6, 3), "101": (3, 4, 23, 3), "152": (3, 8, 36, 3)}


def _lookup(name: str) -> Variant | None:
  match = re.fullmatch(r"ResNet-(?P<depth>50|101|152)(x(?P<factor>[2-9]))?", name)
  if match is None:
    return None
  factor = match["factor"]
  return Variant(
    name,
    ResNet,
    dict(width=64 * int(factor or 1), depths=DEPTHS[match["depth"]]),
    "ViTs outperform ResNets, 2106.01548" if factor else "ResNet, 1512.03385",
  )


FAMILY = Family(
  names=tuple(f"ResNet-{depth}{factor}" for factor in ("", "x2") for depth in DEPTHS),
  lookup=_lookup,
)
