"""Vision Transformers (Dosovitskiy et al., 2010.11929; Zhai et al., 2106.04560)."""

import re
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from vit_jax.errors import UserError
from vit_jax.models.encoder import Encoder, Remat
from vit_jax.models.family import Family, Variant
from vit_jax.models.fields import Dtype, PositiveInt, Rate
from vit_jax.models.layers import Gelu, LayerNorm, PatchEmbedding
from vit_jax.models.output import Output
from vit_jax.models.pooling import MapPool
from vit_jax.models.positions import sincos2d


class ViT(nn.Module):
  """Patches, positions, encoder, final norm, pooling, head.

  Initialisation is big_vision's: see the layers; learned positions are normal with standard
  deviation 1 / sqrt(width) (vit_jax: 0.02), the class token and the head's kernel zero.

  Parameter paths: embedding, cls, pos_embedding, encoder/block_0/{norm1,attention,norm2,mlp}...
  (with `scan`: encoder/blocks/...), encoder_norm, map_pool/{probe,attention,norm,mlp}, pre_logits,
  head. Parameters are float32.

  Attributes:
    num_classes: number of logits.
    image_size: height and width in pixels; a multiple of `patch_size`.
    width: of a token.
    depth: number of blocks.
    mlp_dim: hidden width of the MLPs.
    num_heads: of each attention; divides `width`.
    patch_size: in pixels.
    pool: how tokens become features: "tok", a class token; "gap", their mean after the final
      norm; "map", attention of a learned probe. "tok" is the default of the field.
    posemb: "learn", or "sincos2d" for fixed sines and cosines.
    cls_position: with "tok", whether the class token has an entry of its own in the positions:
      true in the paper and vit_jax (prepend, then add), false in big_vision (add, then prepend).
    pre_logits: a dense layer of `width` with tanh before the head (2010.11929, §3.1, as in
      the checkpoints of ImageNet-21k).
    dropout: rate after the positions, inside the MLPs and at the end of each branch.
    drop_path: rate of stochastic depth at the last block, rising linearly from 0 at the first.
    gelu: "tanh", the approximation that JAX codebases use, or "erf", the exact one of PyTorch's.
    head_zeroinit: start the head's kernel at zero (else LeCun normal).
    head_bias_init: start of the head's bias, e.g. -log(num_classes) for sigmoid losses.
    dtype: of computation, float32 or bfloat16; softmax, norm statistics and head are float32.
    scan: see Encoder.
    remat: see Encoder.
  """

  num_classes: PositiveInt
  image_size: PositiveInt
  width: PositiveInt
  depth: PositiveInt
  mlp_dim: PositiveInt
  num_heads: PositiveInt
  patch_size: PositiveInt
  pool: Literal["tok", "gap", "map"] = "tok"
  posemb: Literal["learn", "sincos2d"] = "learn"
  cls_position: bool = True
  pre_logits: bool = False
  dropout: Rate = 0.0
  drop_path: Rate = 0.0
  gelu: Gelu = "tanh"
  head_zeroinit: bool = True
  head_bias_init: float = 0.0
  dtype: Dtype = jnp.float32
  scan: bool = False
  remat: Remat = "none"

  @nn.nowrap
  def check(self) -> None:
    """Raises UserError if the fields contradict each other."""
    if self.image_size % self.patch_size:
      raise UserError(
        f"image_size={self.image_size} is not a multiple of patch_size="
        f"{self.patch_size}: use {self._nearest_image_size()} or another patch size"
      )
    if self.width % self.num_heads:
      raise UserError(f"width={self.width} is not a multiple of num_heads={self.num_heads}")
    if self.posemb == "sincos2d" and (self.width % 4 or self.width < 8):
      raise UserError(
        f'posemb="sincos2d" needs a width that is a multiple of 4 and at least 8, got {self.width}'
      )

  def _nearest_image_size(self) -> int:
    return max(1, round(self.image_size / self.patch_size)) * self.patch_size

  def _check_images(self, images: jax.Array) -> None:
    if images.ndim != 4:
      raise UserError(f"images must be [batch, height, width, channels], got shape {images.shape}")
    if images.shape[1:3] != (self.image_size, self.image_size):
      raise UserError(
        f"the model was made for {self.image_size} x {self.image_size} pixels, the "
        f"images have {images.shape[1]} x {images.shape[2]}: create it with their "
        "image_size"
      )

  def _add_positions(self, x: jax.Array) -> jax.Array:
    if self.posemb == "learn":
      table = self.param(
        "pos_embedding", nn.initializers.normal(self.width**-0.5), (1, *x.shape[1:])
      )
    else:
      side = self.image_size // self.patch_size
      table = sincos2d(side, side, self.width)
      # The class token has no place in the grid: zero.
      table = jnp.pad(table, ((0, 0), (x.shape[1] - side * side, 0), (0, 0)))
    return x + table.astype(self.dtype)

  def _prepend_cls(self, x: jax.Array) -> jax.Array:
    cls = self.param("cls", nn.initializers.zeros, (1, 1, self.width)).astype(self.dtype)
    return jnp.concatenate([jnp.broadcast_to(cls, (x.shape[0], 1, self.width)), x], axis=1)

  def _pool(self, x: jax.Array) -> jax.Array:
    if self.pool == "tok":
      return x[:, 0]
    if self.pool == "gap":
      return jnp.mean(x, axis=1, dtype=jnp.float32)
    return MapPool(self.mlp_dim, self.num_heads, self.gelu, self.dtype, name="map_pool")(x)

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> Output:
    """Classifies images.

    Args:
      images: float [B, image_size, image_size, C], in the range that training used.
      train: whether dropout and drop path act; they then need rngs={"dropout": key}.

    Raises:
      UserError: images of another size.
    """
    self._check_images(images)
    x = PatchEmbedding(self.width, self.patch_size, self.dtype, name="embedding")(images)
    if self.pool == "tok" and self.cls_position:
      x = self._add_positions(self._prepend_cls(x))
    else:
      x = self._add_positions(x)
      x = self._prepend_cls(x) if self.pool == "tok" else x
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    x = Encoder(
      self.depth,
      self.mlp_dim,
      self.num_heads,
      self.dropout,
      self.drop_path,
      self.gelu,
      self.dtype,
      self.scan,
      self.remat,
      train,
      name="encoder",
    )(x)
    x = LayerNorm(self.dtype, name="encoder_norm")(x)
    features = self._pool(x).astype(jnp.float32)
    if self.pre_logits:
      features = nn.tanh(nn.Dense(self.width, name="pre_logits")(features))
    kernel_init = nn.initializers.zeros if self.head_zeroinit else nn.initializers.lecun_normal()
    logits = nn.Dense(
      self.num_classes,
      kernel_init=kernel_init,
      name="head",
      bias_init=nn.initializers.constant(self.head_bias_init),
    )(features)
    return Output(logits=logits, features=features)


_VIT = "ViT, 2010.11929"
_DEIT = "DeiT, 2012.12877"
_SCALING = "Scaling ViT, 2106.04560"

# width, depth, mlp_dim, num_heads, and where the shape comes from.
_SHAPES = {
  "mu": (32, 1, 128, 2, "big_vision, for tests"),
  "Ti": (192, 12, 768, 3, _DEIT),
  "s": (256, 6, 1024, 8, _SCALING),
  "S": (384, 12, 1536, 6, _DEIT),
  "M": (512, 12, 2048, 8, "DeiT III, 2204.07118"),
  "B": (768, 12, 3072, 12, _VIT),
  "L": (1024, 24, 4096, 16, _VIT),
  "So400m": (1152, 27, 4304, 16, "SoViT, 2305.13035"),
  "H": (1280, 32, 5120, 16, _VIT),
  "g": (1408, 40, 6144, 16, _SCALING),
  "g-opt": (1536, 40, 6144, 16, "big_vision"),
  "G": (1664, 48, 8192, 16, _SCALING),
  "G-opt": (1536, 48, 8192, 16, "big_vision"),
  "e": (1792, 56, 15360, 16, "PaLI, 2209.06794"),
}
_LISTED_PATCHES = {
  "mu": (4, 16),
  "s": (16, 28),
  "S": (16, 32),
  "B": (16, 28, 32),
  "L": (16, 32),
  "Ti": (16,),
  "M": (16,),
}


def _shape(text: str) -> tuple[int, int, int, int, str] | None:
  """Returns a named shape, or that of "w64d6": width and depth, the rest by the usual ratios."""
  free = re.fullmatch(r"w([1-9]\d*)d([1-9]\d*)", text)
  if free is None:
    return _SHAPES.get(text)
  width, depth = int(free[1]), int(free[2])
  # Heads of 64 as in the papers' shapes; narrow models, as mu, have heads of 16.
  return width, depth, 4 * width, max(1, width // (64 if width >= 192 else 16)), "any shape"


def _lookup(name: str) -> Variant | None:
  match = re.fullmatch(r"ViT-(?P<shape>[\w-]+)/(?P<patch>[1-9]\d*)", name)
  shape = _shape(match["shape"]) if match else None
  if shape is None:
    return None
  width, depth, mlp_dim, num_heads, source = shape
  return Variant(
    name,
    ViT,
    dict(
      width=width, depth=depth, mlp_dim=mlp_dim, num_heads=num_heads, patch_size=int(match["patch"])
    ),
    source,
  )


FAMILY = Family(
  names=tuple(
    f"ViT-{shape}/{patch}" for shape in _SHAPES for patch in _LISTED_PATCHES.get(shape, (14,))
  ),
  lookup=_lookup,
)
