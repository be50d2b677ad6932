"""How long a step takes, as far as that can be known without the device."""

from __future__ import annotations

import numpy as np

from scaling.planner import work
from scaling.planner.constants import SPEED
from scaling.planner.grid import Cell
from scaling.planner.plan import Kind
from scaling.planner.topology import Topology

# GFLOPs of a forward pass and share of the peak that training used on TPUv3, by figure 2 of
# "Scaling Vision Transformers" (2106.04560): s/28, S/32, S/16, B/16, L/16, g/14.
_PUBLISHED = ((0.7, 0.121), (2.3, 0.173), (9.2, 0.268), (35.1, 0.397), (122.9, 0.447), (533, 0.454))


def published_mfu(forward: float) -> float:
  """Returns the share of the peak that a model of so many forward FLOPs reached there."""
  flops, share = np.array(_PUBLISHED).T
  return float(np.interp(np.log(forward / 1e9), np.log(flops), share))


def terms(kind: Kind, cell: Cell, where: Topology) -> dict[str, float]:
  """Returns cycles of a TPU by what they are for, before the constants.

  Products at the speed of the matrix units; bytes at the speed at which memory is copied: those of
  the optimiser as if each parameter were one byte, those of activations as if each were once.
  """
  shape, setting = cell.shape, cell.setting
  does = work.of(kind, shape)
  passes = 3 * does.forward + (setting.remat == "full") * does.blocks
  activations = shape.depth * does.tokens * (8 * shape.width + 2 * shape.mlp_dim) * kind.itemsize
  scores = shape.depth * shape.num_heads * does.tokens**2 * 4
  name = dict(kind.optimizer)["name"]
  optimizer = "adafactor" if name == "adafactor" else "adam"
  optimizer += " within" * kind.within
  return {
    "products": setting.batch * passes / where.flops_per_cycle,
    f"parameters, {optimizer}": does.params / setting.fsdp / where.bytes_per_cycle,
    "activations": setting.batch * (activations + scores) / where.bytes_per_cycle,
  }


def _constant(name: str) -> float:
  # Of few optimisers it is known what their updates take within the backward pass.
  return SPEED.get(name, SPEED[name.removesuffix(" within")])


def seconds(kind: Kind, cell: Cell, where: Topology) -> float | None:
  """Returns the estimated time of a step without a compiler; None: nothing is known of the device.

  On TPUs it is what the compiler would say, about; on others, what the published shares of the
  peak (`published_mfu`) make of the model's FLOPs.
  """
  if where.clock:
    parts = terms(kind, cell, where)
    return sum(_constant(name) * value for name, value in parts.items()) / where.clock
  if not where.peak:
    return None
  forward = work.of(kind, cell.shape).forward
  return cell.setting.batch * 3 * forward / (where.peak * published_mfu(forward))
