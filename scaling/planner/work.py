"""What one shape computes: tokens and FLOPs, from the sizes of its parameters."""

from __future__ import annotations

import dataclasses
from functools import lru_cache

import jax

from scaling.planner import parameters
from scaling.planner.grid import Shape
from scaling.planner.plan import Kind


@dataclasses.dataclass(frozen=True)
class Work:
  """What a model is made of; FLOPs count multiply and add separately, as `vit_jax.flops` does.

  Attributes:
    params: scalars in all.
    block_params: scalars in one block.
    tokens: of an image in the blocks.
    forward: FLOPs of the forward pass of one image.
    blocks: those of them that are in blocks.
  """

  params: int
  block_params: int
  tokens: int
  forward: int
  blocks: int


@lru_cache(maxsize=2**14)
def of(kind: Kind, shape: Shape) -> Work:
  """Returns the work of a shape."""
  one = dataclasses.replace(shape, depth=1)
  tree = parameters.shapes(kind, one)
  block = parameters.count(tree["encoder"])
  total = parameters.count(tree) + (shape.depth - 1) * block
  patches = (kind.image_size // shape.patch_size) ** 2
  tokens = patches + (kind.pool == "tok") * (1 + kind.distilled)
  blocks = shape.depth * (2 * tokens * _kernels(tree["encoder"]) + 4 * tokens**2 * shape.width)
  forward = blocks + 2 * patches * _kernels(tree["embedding"])
  if kind.pool == "map":  # one query, keys and values of all tokens
    kernels = tree["map_pool"]["attention"]
    wide = _kernels(kernels["key"]) + _kernels(kernels["value"])
    forward += 2 * (tokens - 1) * wide + 2 * _kernels(tree["map_pool"])
    forward += 4 * tokens * shape.width
  forward += 2 * sum(_kernels(tree[k]) for k in ("head", "head_dist", "pre_logits") if k in tree)
  return Work(total, block, tokens, forward, blocks)


def _kernels(tree: dict) -> int:
  flat = jax.tree_util.tree_leaves_with_path(tree)
  return parameters.count([x for path, x in flat if path[-1].key == "kernel"])
