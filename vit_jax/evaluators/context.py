"""What every evaluator may use of the run that it belongs to."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import ml_collections
from jax.sharding import Mesh


@dataclasses.dataclass(frozen=True)
class Context:
  """The model, the devices and the data of a run.

  Attributes:
    model: see `vit_jax.models`.
    loss_fn: (logits [B, K], labels) -> float32 [B].
    mesh: axes (data, fsdp).
    load: split -> data source.
    data: the config's `data`: preprocessing, threads, cache.
    batch_size: global.
  """

  model: nn.Module
  loss_fn: Callable[[jax.Array, jax.Array], jax.Array]
  mesh: Mesh
  load: Callable[[str], Any]
  data: ml_collections.ConfigDict
  batch_size: int
