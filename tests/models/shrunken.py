"""One model of each class, small enough for tests, by name and overrides."""

from vit_jax import models

SHRUNKEN = {
  "CaiT-XXS24": dict(width=16, depth=2, mlp_dim=24, num_heads=2, patch_size=2, image_size=8),
  "DeiT-Ti/16-distilled": dict(
    width=16, depth=2, mlp_dim=24, num_heads=2, patch_size=2, image_size=8
  ),
  "Mixer-S/2": dict(width=16, depth=2, token_mlp_dim=12, mlp_dim=24, image_size=8),
  "CCT-2/3x1": dict(width=16, depth=2, mlp_dim=24, num_heads=2, image_size=8),
  "ResNet-50": dict(width=4, depths=(3, 2), stem="cifar", image_size=8),
  "BiT-R50x1": dict(width=32, depths=(3,), stem="cifar", image_size=8),
  "ViT-mu/2": dict(width=16, depth=2, mlp_dim=24, num_heads=2, image_size=8),
  # 5 x 5 tokens in windows of 3, then 3 x 3 in one: padding, shift and mask all act.
  "Swin-T": dict(width=16, depths=(2, 2), head_dim=8, window=3, patch_size=2, image_size=10),
  "T2T-ViT-7": dict(width=16, depth=2, mlp_dim=24, num_heads=2, token_width=8, image_size=24),
  "T2T-ViT_t-14": dict(width=16, depth=2, mlp_dim=24, num_heads=2, token_width=8, image_size=24),
}


def create(name, **overrides):
  """Returns the shrunken model, with 5 classes unless told otherwise."""
  return models.create(name, **{**SHRUNKEN[name], "num_classes": 5, **overrides})
