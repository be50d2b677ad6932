"""Parameters of any shape of a ViT, without building it.

Building a model takes Flax half a second, a grid has thousands of them. So it is built once, with
sizes that no two axes share, and every axis of a parameter is known by its size.
"""

from __future__ import annotations

import dataclasses
import math
from functools import lru_cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling.errors import DataError
from scaling.planner.grid import Shape
from scaling.planner.plan import Fields, Kind
from vit_jax import models, state

# The width is divided by the heads and, for fixed positions, by four.
_TEMPLATE = Shape(depth=23, width=92 * 11, num_heads=11, mlp_dim=1999, patch_size=29)
_GRID = 7  # patches along a side of the template's images
_CLASSES = 997
_FIXED = (1, 2, 3)  # sizes that stand for themselves


def _named(shape: Shape, image_size: int, classes: int) -> dict[str, int]:
  """Returns the sizes of axes by name."""
  side = image_size // shape.patch_size
  return {
    "width": shape.width,
    "head_dim": shape.width // shape.num_heads,
    "num_heads": shape.num_heads,
    "mlp_dim": shape.mlp_dim,
    "patch_size": shape.patch_size,
    "depth": shape.depth,
    "classes": classes,
    **{f"tokens+{extra}": side * side + extra for extra in (0, 1, 2)},
  }


def shapes(kind: Kind, shape: Shape) -> Any:
  """Returns the tree of the parameters' ShapeDtypeStructs, layers stacked as with `scan`.

  Raises:
    DataError: the model has a parameter whose axes cannot be told apart.
  """
  template = _template(kind.model)
  values = _named(shape, kind.image_size, kind.classes)
  return jax.tree.map(
    lambda axes: jax.ShapeDtypeStruct(
      tuple(values[a] if isinstance(a, str) else a for a in axes), jnp.float32
    ),
    template,
    is_leaf=lambda x: isinstance(x, tuple),
  )


def model(fields: Fields, shape: Shape, image_size: int, classes: int) -> nn.Module:
  """Returns the model of a shape, with `scan`.

  Args:
    fields: of the model, see `Kind`.
    shape: all other fields.
    image_size: in pixels.
    classes: of the head.

  Raises:
    UserError: the fields contradict each other, or patches do not cover the image.
  """
  return models.create(
    "ViT-B/16",
    num_classes=classes,
    image_size=image_size,
    scan=True,
    **dataclasses.asdict(shape),
    **dict(fields),
  )


def count(tree: Any) -> int:
  """Returns the number of parameters."""
  return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


@lru_cache(maxsize=16)
def _template(fields: Fields) -> Any:
  image_size = _GRID * _TEMPLATE.patch_size
  template = model(fields, _TEMPLATE, image_size, _CLASSES)
  tree = jax.eval_shape(
    lambda key: state.init_variables(template, key, image_size, 3), jax.random.key(0)
  )["params"]
  names = {size: name for name, size in _named(_TEMPLATE, image_size, _CLASSES).items()}

  def axes(path: tuple, x: jax.ShapeDtypeStruct) -> tuple[str | int, ...]:
    unknown = [n for n in x.shape if n not in names and n not in _FIXED]
    if unknown:
      raise DataError(
        f"parameter {jax.tree_util.keystr(path)} has an axis of {unknown[0]} that is none of a "
        "plain ViT: its shapes cannot be planned"
      )
    return tuple(names.get(n, n) for n in x.shape)

  return jax.tree_util.tree_map_with_path(axes, tree)
