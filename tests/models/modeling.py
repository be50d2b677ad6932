"""A ViT small enough for tests, and parameters that leave no tensor at a special value."""

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import models


def tiny(**overrides):
  """Width 16, depth 2, 2 heads, 4 x 4 patches of 2 px, 5 classes."""
  fields = dict(width=16, depth=2, mlp_dim=24, num_heads=2, num_classes=5, image_size=8)
  return models.create("ViT-mu/2", **{**fields, **overrides})


def shapes(model, channels=3):
  images = jax.ShapeDtypeStruct((1, model.image_size, model.image_size, channels), jnp.float32)
  return jax.eval_shape(model.init, jax.random.key(0), images)["params"]


def random_params(model, seed=0):
  """Returns NumPy parameters: each tensor's own initial scale is replaced by 0.3, norms' by 1."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    x = rng.normal(size=leaf.shape) * 0.3
    return np.float32(x + 1 if path[-1].key == "scale" else x)

  return jax.tree_util.tree_map_with_path(draw, shapes(model))


def random_images(model, batch=3, seed=1):
  size = (batch, model.image_size, model.image_size, 3)
  return np.float32(np.random.default_rng(seed).normal(size=size))


def jit(fn):
  """Compiles in a third of the time, for functions that run once on little data."""
  return jax.jit(fn, compiler_options={"xla_backend_optimization_level": 0})


def apply(model, params, images, **kwargs):
  return jit(lambda p, x: model.apply({"params": p}, x, **kwargs))(params, images)
