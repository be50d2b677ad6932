"""Mixing the images of a batch on the device: mixup and CutMix.

Mixup (Zhang et al. 2018, arXiv:1710.09412) adds two images, l x + (1 - l) x'; CutMix (Yun et al.
2019, arXiv:1905.04899) pastes a box of x' into x, and l is the share of x that is left. Labels
become l y + (1 - l) y'. In both, a share 1 - w of each pixel is the partner's, so that one formula
does either, or with w = 1 exactly nothing:

  image = w x + (1 - w) x',  w [H, W, 1],  l = mean(w)

One l and one box a batch, functions of the key alone. Partners come from the whole batch, whatever
the number of devices and before it is cut into micro-batches: the draws depend on neither. Where
the batch is split over devices, they exchange images for that, one batch a step.

Label smoothing is the loss's (`vit_jax.losses`), and nowhere else: (1 - e) y + e / K of a mixture
is the mixture of timm's smoothed labels, e / K and 1 - e + e / K.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from vit_jax.errors import UserError, unknown
from vit_jax.losses import one_hot

Batch = dict[str, jax.Array]

KINDS = ("timm", "big_vision")


@dataclass(frozen=True, kw_only=True)
class Mixing:
  """How batches are mixed.

  "timm" (Wightman's library, also DeiT's and Compact-Transformers' training): the partner of
  example i of B is B - 1 - i, l ~ Beta(alpha, alpha), by mixup or CutMix. "big_vision": mixup
  alone, the partner is i - 1, and l the larger of the draw and its complement. There, partners come
  from the same device's share of the batch; here from the whole batch, as everywhere.

  Attributes:
    mixup: alpha of mixup's Beta, 0 for none.
    cutmix: alpha of CutMix's Beta, 0 for none.
    switch: probability of CutMix where both are set.
    prob: probability that a batch is mixed at all.
    until: the step from which on no batch is mixed any more, None for never.
    kind: one of KINDS.
  """

  mixup: float = 0.0
  cutmix: float = 0.0
  switch: float = 0.5
  prob: float = 1.0
  until: int | None = None
  kind: str = "timm"

  def __post_init__(self) -> None:
    """Checks the values.

    Raises:
      UserError: a value out of its range, or CutMix with big_vision's conventions.
    """
    if self.kind not in KINDS:
      raise unknown("config.mixing.kind", self.kind, KINDS)
    for name in ("mixup", "cutmix"):
      if not 0 <= getattr(self, name) < float("inf"):
        raise UserError(f"config.mixing.{name}={getattr(self, name)} must be at least 0")
    for name in ("switch", "prob"):
      if not 0 <= getattr(self, name) <= 1:
        raise UserError(f"config.mixing.{name}={getattr(self, name)} must lie in 0..1")
    if self.until is not None and self.until < 0:
      raise UserError(f"config.mixing.until={self.until} must be at least 0 steps")
    if self.cutmix and self.kind == "big_vision":
      raise UserError(
        f"config.mixing.cutmix={self.cutmix} is not among big_vision's conventions: set it to 0, "
        'or config.mixing.kind="timm"'
      )

  def __bool__(self) -> bool:
    """Whether any batch is mixed."""
    return bool((self.mixup or self.cutmix) and self.prob)


def rectangle(ratio: jax.Array, center: jax.Array, height: int, width: int) -> jax.Array:
  """Returns which pixels CutMix's box covers, bool [H, W].

  The box has sides of floor(H sqrt(1 - ratio)) and floor(W sqrt(1 - ratio)) pixels, less one where
  that is odd, and is cut off at the border, as in timm.

  Args:
    ratio: float [], the share of the image that stays, before the box is cut off.
    center: int [2], row and column, each within the image.
    height: H in pixels.
    width: W in pixels.
  """

  def inside(size: int, middle: jax.Array) -> jax.Array:
    half = jnp.floor(size * jnp.sqrt(1 - ratio)).astype(jnp.int32) // 2
    at = jnp.arange(size)
    return (at >= middle - half) & (at < middle + half)

  return inside(height, center[0])[:, None] & inside(width, center[1])[None]


def weights(
  options: Mixing, key: jax.Array, step: jax.Array, height: int, width: int
) -> tuple[jax.Array, jax.Array]:
  """Draws the share of each pixel that stays.

  Args:
    options: how to mix.
    key: of this step.
    step: int [], steps done before this one.
    height: H in pixels.
    width: W in pixels.

  Returns:
    w, float32 [H, W, 1], and its mean l, float32 [], both in 0..1.
  """
  for_any, for_switch, for_mixup, for_cutmix, *for_center = jax.random.split(key, 6)
  mixes = jax.random.uniform(for_any) < options.prob
  if options.until is not None:
    mixes &= step < options.until
  nothing = jnp.ones((height, width, 1), jnp.float32), jnp.float32(1)

  def mixup() -> tuple[jax.Array, jax.Array]:
    ratio = jax.random.beta(for_mixup, options.mixup, options.mixup)
    if options.kind == "big_vision":
      ratio = jnp.maximum(ratio, 1 - ratio)
    return jnp.full_like(nothing[0], ratio), ratio

  def cutmix() -> tuple[jax.Array, jax.Array]:
    ratio = jax.random.beta(for_cutmix, options.cutmix, options.cutmix)
    center = jnp.stack(
      [jax.random.randint(k, (), 0, n) for k, n in zip(for_center, (height, width), strict=True)]
    )
    covered = rectangle(ratio, center, height, width)
    return jnp.where(covered, 0.0, 1.0)[..., None], 1 - covered.sum() / (height * width)

  def choose(condition: jax.Array, yes: tuple, no: tuple) -> tuple[jax.Array, jax.Array]:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)

  drawn = nothing
  if options.mixup and options.cutmix:
    drawn = choose(jax.random.uniform(for_switch) < options.switch, cutmix(), mixup())
  elif options.mixup or options.cutmix:
    drawn = mixup() if options.mixup else cutmix()
  return choose(mixes, drawn, nothing)


def apply(batch: Batch, w: jax.Array, ratio: jax.Array, num_classes: int, kind: str) -> Batch:
  """Mixes a batch with drawn weights.

  Args:
    batch: {"image": [B, H, W, C], "label": int [B] or float [B, K], ...}.
    w: float32 [H, W, 1], see `weights`.
    ratio: float32 [], the share of the labels that stays.
    num_classes: K.
    kind: whose partners; one of KINDS.

  Returns:
    The batch with other images, of their dtype or, for integers, float32, and labels float32
    [B, K]. A label that is no class gives NaN, also its partner's.
  """

  def mix(x: jax.Array, share: jax.Array) -> jax.Array:
    x = x.astype(jnp.float32)
    partner = x[::-1] if kind == "timm" else jnp.roll(x, 1, axis=0)
    return share * x + (1 - share) * partner

  image, label = batch["image"], batch["label"]
  if label.ndim == 1:
    label = one_hot(label, num_classes)
  dtype = image.dtype if jnp.issubdtype(image.dtype, jnp.floating) else jnp.float32
  return {**batch, "image": mix(image, w).astype(dtype), "label": mix(label, ratio)}


def make(options: Mixing, num_classes: int) -> Callable[[Batch, jax.Array, jax.Array], Batch]:
  """Returns the pure function (batch, key, step) -> mixed batch; see `weights` and `apply`."""

  def mix(batch: Batch, key: jax.Array, step: jax.Array) -> Batch:
    w, ratio = weights(options, key, step, *batch["image"].shape[1:3])
    return apply(batch, w, ratio, num_classes, options.kind)

  return mix
