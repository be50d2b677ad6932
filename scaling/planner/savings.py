"""The ways to save memory that "Scaling Vision Transformers" (2106.04560) colours in figure 8.

And one more: without it, gradients and half-precision copies of the parameters of ViT-G leave no
room on a TPUv3 core; see `vit_jax.within`.
"""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Saving:
  """What a cell's optimiser stands for.

  Attributes:
    label: in figures and tables.
    changes: dotted config key -> value.
  """

  label: str
  changes: dict[str, Any]


# From what takes most to what takes least: a shape has the colour of the first in which it fits.
SAVINGS = {
  "adam": Saving(
    "plain: Adam, class token",
    {
      "model.pool": "tok",
      "optimizer.name": "adamw",
      "optimizer.momentum_dtype": "float32",
    },
  ),
  "adam-bf16": Saving(
    "no class token, Adam with bf16 first moment",
    {
      "model.pool": "map",
      "optimizer.name": "adamw",
      "optimizer.momentum_dtype": "bfloat16",
    },
  ),
  "adafactor": Saving(
    "no class token, modified Adafactor",
    {
      "model.pool": "map",
      "optimizer.name": "adafactor",
      "optimizer.momentum_dtype": "auto",
    },
  ),
  "adafactor-within": Saving(
    "the same, updated within the backward pass",
    {
      "model.pool": "map",
      "optimizer.name": "adafactor",
      "optimizer.momentum_dtype": "auto",
      "updates": "within",
      "model.scan": True,
    },
  ),
  "config": Saving("as the config has it", {}),
}
