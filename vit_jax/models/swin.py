"""Swin Transformers (Liu et al., 2103.14030)."""

import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vit_jax.errors import UserError
from vit_jax.models import windows
from vit_jax.models.attention import Attention
from vit_jax.models.dense import Dense
from vit_jax.models.encoder import Encoder, Remat, ResidualBlock, linear_rates
from vit_jax.models.family import Family, Variant
from vit_jax.models.fields import Dtype, PositiveInt, Rate, Sizes
from vit_jax.models.layers import (
  NORMAL,
  TORCH_UNIFORM,
  Gelu,
  LayerNorm,
  Mlp,
  PatchEmbedding,
  check_images,
  head,
  torch_bias,
)
from vit_jax.models.output import Output

_EPSILON = 1e-5  # of the norms: PyTorch's default
_MASKED = -100.0  # what is added to the scores of tokens that were no neighbours


class SwinBlock(ResidualBlock, kw_only=True):
  """The pre-norm block with attention inside windows (2103.14030, §3.2).

  Windows are shifted cyclically by half a window where `each` says so. A map no larger than a
  window is a single window, which is not shifted.

  Attributes:
    side: of the map, in tokens.
    window: side of the windows, at most `side`.
    num_heads: of the attention.
    mlp_dim: hidden width of the MLP, which has dropout inside as well.
    attention_dropout: rate of dropped attention weights.
    gelu: "tanh" or "erf".
  """

  side: int
  window: int
  num_heads: int
  mlp_dim: int
  attention_dropout: float = 0.0
  gelu: Gelu = "erf"

  def _attend(self, x: jax.Array, shifted: jax.typing.ArrayLike) -> jax.Array:
    b, _, width = x.shape
    w, shift = self.window, 0 if self.side == self.window else self.window // 2
    table = self.param("bias_table", NORMAL, ((2 * w - 1) ** 2, self.num_heads))
    bias = table[windows.relative_positions(w)].transpose(2, 0, 1)[None]
    x = x.reshape(b, self.side, self.side, width)
    if shift:
      # A choice instead of a shift by a traced number: what the compiler knows costs nothing.
      x = jnp.where(shifted, jnp.roll(x, (-shift, -shift), (1, 2)), x)
      part = windows.regions(self.side, w, shift)
      apart = (part[:, None, :, None] != part[:, None, None, :]) & shifted
      bias = bias + jnp.where(apart, _MASKED, 0.0)
      bias = jnp.broadcast_to(bias, (b, *bias.shape)).reshape(-1, *bias.shape[1:])
    x = windows.partition(x, w)
    x = Attention(
      self.num_heads,
      dtype=self.dtype,
      dropout=self.attention_dropout,
      train=self.train,
      kernel_init=NORMAL,
      name="attention",
    )(x, x, bias)
    x = windows.merge(x, self.side, w)
    if shift:
      x = jnp.where(shifted, jnp.roll(x, (shift, shift), (1, 2)), x)
    return x.reshape(b, -1, width)

  @nn.compact
  def __call__(
    self, x: jax.Array, each: tuple[jax.typing.ArrayLike, jax.typing.ArrayLike]
  ) -> tuple[jax.Array, None]:
    """Maps [B, side^2, D], row by row, to the same shape.

    Args:
      x: the tokens.
      each: the rate of drop path, and whether the windows are shifted.
    """
    rate, shifted = each
    norm = partial(LayerNorm, self.dtype, _EPSILON)
    x = x + self.end_branch(self._attend(norm(name="norm1")(x), shifted), rate)
    y = Mlp(
      self.mlp_dim,
      self.dropout,
      self.gelu,
      self.dtype,
      self.train,
      NORMAL,
      nn.initializers.zeros,
      name="mlp",
    )(norm(name="norm2")(x))
    return x + self.end_branch(y, rate), None


class PatchMerging(nn.Module):
  """Halves a map: 2 x 2 tokens become one of twice the width (2103.14030, §3.1).

  The four are concatenated column by column, normalised together and projected without bias. A map
  of an odd side gets a row and a column of zeros first.

  Attributes:
    dtype: of computation.
  """

  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, S^2, D] to [B, ceil(S / 2)^2, 2 D], both row by row."""
    b, count, width = x.shape
    side = math.isqrt(count)
    half = -(-side // 2)
    x = x.reshape(b, side, side, width)
    if side % 2:
      x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    x = x.reshape(b, half, 2, half, 2, width).transpose(0, 1, 3, 4, 2, 5)
    x = LayerNorm(self.dtype, _EPSILON, name="norm")(x.reshape(b, half * half, 4 * width))
    dense = Dense(
      (2 * width,), kernel_init=NORMAL, use_bias=False, dtype=self.dtype, name="reduction"
    )
    return dense(x)


class Swin(nn.Module):
  """Patches, stages of windowed attention with patch merging between, norm, mean, head.

  Any image size will do: images are padded with zeros to whole patches, maps to whole windows and
  to even sides before they are halved, always at the right and the bottom, and the window shrinks
  to the map where the map is smaller. All that is timm's way, including where the mask lies
  (see `windows.regions`); Microsoft's code for classification knows no padding, and agrees
  otherwise.

  Initialisation is that of Microsoft's code: kernels and bias tables normal with standard deviation
  0.02, biases zero; kernel and bias of the patches as PyTorch's, uniform within 1 / sqrt(fan_in).

  Parameter paths: embedding, embedding_norm,
  stage_0/block_0/{norm1,bias_table,attention,norm2,mlp}... (with `scan`: stage_0/blocks/...),
  merging_1/{norm,reduction} before stage_1, ..., encoder_norm, head. Parameters are float32.

  Attributes:
    num_classes: number of logits.
    image_size: height and width in pixels.
    width: of a token in the first stage (the paper's C); each further stage doubles it.
    depths: numbers of blocks of the stages; every second block has shifted windows.
    window: side of the windows, in tokens. The tables of biases have (2 window - 1)^2 rows.
    head_dim: width of an attention head; divides `width`.
    patch_size: in pixels.
    mlp_ratio: hidden width of the MLPs, in widths of a token.
    dropout: rate after the patches, inside the MLPs and at the end of each branch.
    attention_dropout: rate of dropped attention weights.
    drop_path: rate of stochastic depth at the last block, rising linearly from 0 at the first
      one of the first stage.
    gelu: "erf", as in PyTorch's codebases, or "tanh".
    head_zeroinit: start the head's kernel at zero (else 0.02 normal).
    head_bias_init: start of the head's bias, e.g. -log(num_classes) for sigmoid losses.
    dtype: of computation, float32 or bfloat16; softmax, norm statistics and head are float32.
    scan: scan over the blocks of each stage; see Encoder.
    remat: see Encoder.
  """

  num_classes: PositiveInt
  image_size: PositiveInt
  width: PositiveInt
  depths: Sizes
  window: PositiveInt = 7
  head_dim: PositiveInt = 32
  patch_size: PositiveInt = 4
  mlp_ratio: PositiveInt = 4
  dropout: Rate = 0.0
  attention_dropout: Rate = 0.0
  drop_path: Rate = 0.0
  gelu: Gelu = "erf"
  head_zeroinit: bool = False
  head_bias_init: float = 0.0
  dtype: Dtype = jnp.float32
  scan: bool = False
  remat: Remat = "none"

  @nn.nowrap
  def check(self) -> None:
    """Raises UserError if the fields contradict each other."""
    if self.width % self.head_dim:
      raise UserError(f"width={self.width} is not a multiple of head_dim={self.head_dim}")

  @nn.nowrap
  def sides(self) -> tuple[int, ...]:
    """Returns the side of each stage's map, in tokens."""
    sides = [-(-self.image_size // self.patch_size)]
    for _ in self.depths[1:]:
      sides.append(-(-sides[-1] // 2))
    return tuple(sides)

  def _embed(self, images: jax.Array) -> jax.Array:
    pad = -self.image_size % self.patch_size
    if pad:
      images = jnp.pad(images, ((0, 0), (0, pad), (0, pad), (0, 0)))
    bias_init = torch_bias(self.patch_size**2 * images.shape[-1])
    x = PatchEmbedding(
      self.width, self.patch_size, self.dtype, TORCH_UNIFORM, bias_init, name="embedding"
    )(images)
    return LayerNorm(self.dtype, _EPSILON, name="embedding_norm")(x)

  def _stage(self, i: int, x: jax.Array, rates: np.ndarray, train: bool) -> jax.Array:
    width, side = x.shape[-1], self.sides()[i]
    fields = dict(
      side=side,
      window=min(self.window, side),
      num_heads=width // self.head_dim,
      mlp_dim=width * self.mlp_ratio,
      attention_dropout=self.attention_dropout,
      gelu=self.gelu,
      dropout=self.dropout,
      has_drop_path=self.drop_path > 0,
      dtype=self.dtype,
      train=train,
    )
    each = (rates, np.arange(len(rates)) % 2 == 1)
    return Encoder(SwinBlock, fields, self.scan, self.remat, name=f"stage_{i}")(x, each)

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> Output:
    """Classifies images.

    Args:
      images: float [B, image_size, image_size, C], in the range that training used.
      train: whether dropout and drop path act; they then need rngs={"dropout": key}.

    Raises:
      UserError: images of another size.
    """
    check_images(images, self.image_size)
    x = nn.Dropout(self.dropout, deterministic=not train)(self._embed(images))
    rates = linear_rates(self.drop_path, sum(self.depths))
    for i, stage_rates in enumerate(np.split(rates, np.cumsum(self.depths)[:-1])):
      if i:
        x = PatchMerging(self.dtype, name=f"merging_{i}")(x)
      x = self._stage(i, x, stage_rates, train)
    x = LayerNorm(self.dtype, _EPSILON, name="encoder_norm")(x)
    features = jnp.mean(x, axis=1, dtype=jnp.float32)
    logits = head(
      self.num_classes,
      kernel_init=NORMAL,
      zeroinit=self.head_zeroinit,
      bias=self.head_bias_init,
    )(features)
    return Output(logits, features)


# width, depths, and the drop path of the project's configs: for T, S and B that of ImageNet-1k
# from scratch, for L that of ImageNet-22k and of fine-tuning after it.
_SHAPES = {
  "T": (96, (2, 2, 6, 2), 0.2),
  "S": (96, (2, 2, 18, 2), 0.3),
  "B": (128, (2, 2, 18, 2), 0.5),
  "L": (192, (2, 2, 18, 2), 0.2),
}


def _lookup(name: str) -> Variant | None:
  match = re.fullmatch(r"Swin-(?P<shape>[TSBL])(-w(?P<window>[1-9]\d*))?", name)
  if match is None:
    return None
  width, depths, drop_path = _SHAPES[match["shape"]]
  window = int(match["window"] or 7)
  return Variant(
    name,
    Swin,
    dict(width=width, depths=depths, window=window, drop_path=drop_path),
    "Swin, 2103.14030",
    image_size=32 * window,  # the smallest in which whole windows cover every map: 224, 384
  )


FAMILY = Family(
  names=("Swin-T", "Swin-S", "Swin-B", "Swin-B-w12", "Swin-L", "Swin-L-w12"), lookup=_lookup
)
