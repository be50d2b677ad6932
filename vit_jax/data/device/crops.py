"""Operations that choose which part of an image is seen, and at what size.

The host's docstrings say what they do. Their boxes are computed for all images at once, and images
are resized by multiplying with a matrix of weights for each axis, which devices do fastest.
"""

import math

import jax
import jax.numpy as jnp

from vit_jax.data.device.kernels import kernel
from vit_jax.data.device.registry import Op, register
from vit_jax.data.device.uniforms import integers, unit


def _cut(images: jax.Array, y: jax.Array, x: jax.Array, size: int) -> jax.Array:
  """Cuts size x size pixels out of each image from (y, x) on; int32 [B] each."""

  def one(image: jax.Array, y: jax.Array, x: jax.Array) -> jax.Array:
    return jax.lax.dynamic_slice(image, (y, x, 0), (size, size, image.shape[-1]))

  return jax.vmap(one)(images, y, x)


def _check_fits(h: int, w: int, size: int) -> None:
  if min(h, w) < size:
    raise ValueError(f"an image of {h} x {w} pixels is smaller than size={size}")


@register
def central_crop(size: int) -> Op:
  """See `vit_jax.data.crops`."""

  def op(images: jax.Array, _: jax.Array) -> jax.Array:
    h, w = images.shape[1:3]
    _check_fits(h, w, size)
    y, x = (h - size) // 2, (w - size) // 2
    return images[:, y : y + size, x : x + size]

  return op


@register
def random_crop(size: int, pad: int, mode: str) -> Op:
  """See `vit_jax.data.crops`."""

  def op(images: jax.Array, bits: jax.Array) -> jax.Array:
    if pad:
      margins = ((0, 0), (pad, pad), (pad, pad), (0, 0))
      images = jnp.pad(images, margins, mode="reflect" if mode == "reflect" else "constant")
    h, w = images.shape[1:3]
    _check_fits(h, w, size)
    u = unit(bits)
    return _cut(images, integers(u[:, 0], h - size + 1), integers(u[:, 1], w - size + 1), size)

  return op


@register
def flip() -> Op:
  """See `vit_jax.data.crops`."""

  def op(images: jax.Array, bits: jax.Array) -> jax.Array:
    turned = unit(bits)[:, 0] < 0.5
    return jnp.where(turned[:, None, None, None], images[:, :, ::-1], images)

  return op


@register
def random_resized_crop(
  size: int,
  min_area: float,
  max_area: float,
  min_aspect: float,
  max_aspect: float,
  interpolation: str,
  antialias: bool,
) -> Op:
  """See `vit_jax.data.crops`."""
  interpolate = kernel(interpolation, ("bilinear", "bicubic", "random"))

  def op(images: jax.Array, bits: jax.Array) -> jax.Array:
    u = unit(bits)
    y, x, h, w = resized_box(*images.shape[1:3], u, (min_area, max_area), (min_aspect, max_aspect))
    shrinks = (h >= size) & (w >= size) & antialias

    def shares(start: jax.Array, extent: jax.Array, source: int) -> jax.Array:
      places = _places(extent, size)
      own = _interpolated(start, extent, source, *interpolate(places, u[:, -1]))
      return jnp.where(shrinks[:, None, None], _averaged(start, extent, source, size), own)

    rows, columns = shares(y, h, images.shape[1]), shares(x, w, images.shape[2])
    out = jnp.einsum("bth,bhwc->btwc", rows, images.astype(jnp.float32), precision="highest")
    out = jnp.einsum("bsw,btwc->btsc", columns, out, precision="highest")
    if images.dtype == jnp.uint8:
      out = jnp.clip(jnp.round(out), 0, 255).astype(jnp.uint8)
    return out

  return op


def resized_box(
  h: int, w: int, u: jax.Array, area: tuple[float, float], aspect: tuple[float, float]
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Returns (y, x, height, width) of a box in each h x w image, int32 [B], like the host's."""
  low, high = math.log(aspect[0]), math.log(aspect[1])
  size = h * w * (area[0] + u[:, :-3:2] * (area[1] - area[0]))
  ratio = jnp.exp(low + u[:, 1:-3:2] * (high - low))
  widths, heights = jnp.round(jnp.sqrt(size * ratio)), jnp.round(jnp.sqrt(size / ratio))
  fits = (widths > 0) & (widths <= w) & (heights > 0) & (heights <= h)
  first, found = fits.argmax(1)[:, None], fits.any(1)

  def choose(sizes: jax.Array, otherwise: int) -> jax.Array:
    drawn = jnp.take_along_axis(sizes, first, axis=1)[:, 0]
    return jnp.where(found, drawn, otherwise).astype(jnp.int32)

  box_h = choose(heights, min(h, round(w / aspect[0])))
  box_w = choose(widths, min(w, round(h * aspect[1])))
  y, x = integers(u[:, -3], h - box_h + 1), integers(u[:, -2], w - box_w + 1)
  return jnp.where(found, y, (h - box_h) // 2), jnp.where(found, x, (w - box_w) // 2), box_h, box_w


def _places(extent: jax.Array, size: int) -> jax.Array:
  """Returns where in the box the centres of the result's pixels are, [B, size]."""
  scale = extent.astype(jnp.float32)[:, None] / size
  return (jnp.arange(size) + 0.5) * scale - 0.5


def _interpolated(
  start: jax.Array, extent: jax.Array, source: int, first: jax.Array, shares: jax.Array
) -> jax.Array:
  """Returns the shares of all pixels in each of the result's, the box's edges repeated.

  Args:
    start: of the box, int32 [B].
    extent: of the box in pixels, int32 [B].
    source: pixels of the image.
    first: neighbour in the box, int32 [B, size].
    shares: of that and the following neighbours, float32 [B, size, taps].

  Returns:
    float32 [B, size, source].
  """
  out = jnp.zeros((*first.shape, source), jnp.float32)
  for k in range(shares.shape[-1]):
    pixel = start[:, None] + jnp.clip(first + k, 0, extent[:, None] - 1)
    out += shares[..., k, None] * (pixel[..., None] == jnp.arange(source))
  return out


def _averaged(start: jax.Array, extent: jax.Array, source: int, size: int) -> jax.Array:
  """Returns the share of each pixel's area in each of the result's, [B, size, source]."""
  scale = extent.astype(jnp.float32)[:, None, None] / size
  places = jnp.arange(size)[:, None]
  pixels = jnp.arange(source) - start[:, None, None]
  covered = jnp.minimum((places + 1) * scale, pixels + 1) - jnp.maximum(places * scale, pixels)
  return jnp.maximum(covered, 0) / scale
