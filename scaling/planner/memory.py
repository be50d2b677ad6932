"""HBM of a train step, estimated in milliseconds, term by term.

The state is exact: parameters by `parameters.shapes`, the optimiser by what it makes of them, and
their averages, which are copies. What the compiler adds is a sum of terms that the step is known to
need, each times a constant: see `constants.py`, and `calibrate.py` where they come from.
"""

from __future__ import annotations

import dataclasses
import math
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from scaling.planner import parameters, work
from scaling.planner.constants import MEMORY
from scaling.planner.grid import Cell, Shape
from scaling.planner.plan import Kind
from vit_jax import optim, parallel
from vit_jax.job import STACKED

_LANES = 128  # a TPU pads the last axis of an array to this
# Of lawa's snapshots, what XLA copies in a step to write one: so in the programs of two shapes that
# were compiled for v3, of 8 x 768//12 x 3072 with three and six, and of 8 x 1024//8 x 1024.
_COPIED = 0.33


def _up(value: int, multiple: int) -> int:
  return -(-value // multiple) * multiple


@dataclasses.dataclass(frozen=True)
class _Part:
  """What a device has of a tree: bytes and scalars, beside the blocks and in each block."""

  size: int = 0
  block_size: int = 0
  count: int = 0
  block_count: int = 0


def _part(tree: Any, parts: int) -> _Part:
  mesh = AbstractMesh((1, parts), ("data", "fsdp"))
  shardings = jax.tree.leaves(parallel.state_shardings(mesh, tree))
  sums = [0, 0, 0, 0]
  for (path, x), sharding in zip(jax.tree_util.tree_leaves_with_path(tree), shardings, strict=True):
    count = math.prod(sharding.shard_shape(x.shape))
    stacked = any(getattr(key, "key", None) == "blocks" for key in path)
    sums[stacked] += count * jnp.dtype(x.dtype).itemsize
    sums[2 + stacked] += count
  return _Part(*sums)


class State(NamedTuple):
  """What a device keeps from step to step, in bytes; of the parameters also how many it has."""

  params: int
  moments: int
  averages: int
  count: int


@lru_cache(maxsize=2**14)
def _state(kind: Kind, shape: Shape, fsdp: int, zero1: int) -> tuple[_Part, _Part, _Part]:
  """Returns the parts of the parameters, of the optimiser's state and of one average."""
  params = parameters.shapes(kind, shape)
  state = jax.eval_shape(optim.make(dict(kind.optimizer), params, stacked=STACKED).init, params)
  own = _part(params, fsdp)
  return own, _part(state, max(fsdp, zero1)), own if zero1 == 1 else _part(params, zero1)


def state(kind: Kind, cell: Cell) -> State:
  """Returns what a device keeps; it is found for one block, and blocks differ in nothing.

  Raises:
    UserError: the optimiser's options are wrong.
  """
  shape, depth = dataclasses.replace(cell.shape, depth=1), cell.shape.depth
  # When parameters change is no matter here, nor how many averages are equally large.
  alike = dataclasses.replace(kind, within=False, averages=0, snapshots=0)
  own, moments, average = _state(alike, shape, cell.setting.fsdp, cell.setting.zero1)
  return State(
    own.size + depth * own.block_size,
    moments.size + depth * moments.block_size,
    kind.averages * (average.size + depth * average.block_size),
    own.count + depth * own.block_count,
  )


def terms(kind: Kind, cell: Cell) -> dict[str, float]:
  """Returns bytes of a device by what they are for, before the constants."""
  shape, setting = cell.shape, cell.setting
  does = work.of(kind, shape)
  keeps = state(kind, cell)
  held = keeps.count - kind.within * shape.depth * does.block_params / setting.fsdp
  images = setting.batch / kind.accumulate
  item, width, mlp = kind.itemsize, shape.width, shape.mlp_dim
  tokens, head = _up(does.tokens, 8), _up(width // shape.num_heads, _LANES)
  wide = shape.num_heads * head  # of queries, keys and values, each head padded
  scores = shape.num_heads * tokens * _up(does.tokens, _LANES)
  stream = images * tokens * width * item
  layer = images * (tokens * (6 * width + 4 * wide + 3 * mlp) * item + scores * (4 + item))
  if setting.remat == "dots":
    layer_keeps = images * tokens * (2 * width + 3 * width + mlp) * item
  else:
    layer_keeps = layer if setting.remat == "none" else 0
  # XLA lays activations where gradients will be, as far as these are whole.
  whole = setting.fsdp == 1 and not kind.within
  kept = f"kept, {setting.remat}{'' if kind.scan else ', unrolled'}"
  copies = does.block_params * item * (item < 4) * (1 if kind.scan else shape.depth)
  gradients = 4 * held * (1 + (kind.accumulate > 1))
  if not kind.scan:  # Nor are there loops, whose stacks of either are alive together to the end.
    alive = copies + shape.depth * (stream + MEMORY.get(kept, 1.0) * layer_keeps)
    gradients = max(gradients - alive, 0)
  return {
    "parameters": keeps.params,
    "moments": keeps.moments,
    "averages": keeps.averages,
    "snapshots, copied": _COPIED * keeps.averages * kind.snapshots / max(kind.averages, 1),
    "gradients": gradients,
    "copies": copies,
    "gathered": 4 * does.block_params * (setting.fsdp > 1),
    "one block": 4 * does.block_params * kind.within,
    "stream": shape.depth * stream,
    kept: shape.depth * layer_keeps,
    "layer" if whole else "layer, gradients in parts": layer,
    "images": images * 3 * kind.image_size**2 * 4,
    "logits": images * kind.classes * 4,
    "rest": 2**20,
  }


def estimate(kind: Kind, cell: Cell) -> float:
  """Returns the bytes of HBM that a device needs for a step."""
  parts = terms(kind, cell)
  return sum(MEMORY.get(name, 1.0) * value for name, value in parts.items())
