"""DeiT (Touvron et al., 2012.12877): ViTs for another training, and with a distillation token."""

from vit_jax.models.family import Family, Variant
from vit_jax.models.vit import ViT

# Width and heads (Table 1); all have 12 blocks.
_SHAPES = {"Ti": (192, 3), "S": (384, 6), "B": (768, 12)}


def _variant(name: str, width: int, num_heads: int, distilled: bool) -> Variant:
  fields = dict(
    width=width,
    depth=12,
    mlp_dim=4 * width,
    num_heads=num_heads,
    patch_size=16,
    distilled=distilled,
    drop_path=0.1,
    gelu="erf",
    weight_init="normal",
    head_zeroinit=False,
  )
  return Variant(name, ViT, fields, "DeiT, 2012.12877")


_VARIANTS = {
  (name := f"DeiT-{shape}/16{suffix}"): _variant(name, width, num_heads, bool(suffix))
  for suffix in ("", "-distilled")
  for shape, (width, num_heads) in _SHAPES.items()
}

FAMILY = Family(names=tuple(_VARIANTS), lookup=_VARIANTS.get)
