"""One model of each class, small enough for tests, by name and overrides."""

from vit_jax import models

SHRUNKEN = {
  "ViT-mu/2": dict(width=16, depth=2, mlp_dim=24, num_heads=2, image_size=8),
}


def create(name, **overrides):
  """Returns the shrunken model, with 5 classes unless told otherwise."""
  return models.create(name, **{**SHRUNKEN[name], "num_classes": 5, **overrides})
