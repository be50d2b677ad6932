"""What every evaluator may use of the run that it belongs to."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh

from vit_jax import gathering, parallel
from vit_jax.errors import UserError
from vit_jax.evaluators.shared import Shared


@dataclasses.dataclass(frozen=True)
class Context:
  """The model, the devices and the data of a run.

  Attributes:
    model: see `vit_jax.models`.
    loss_fn: (logits [B, K], labels) -> float32 [B].
    mesh: axes (data, fsdp).
    load: split -> data source.
    load_dataset: (name, split) -> data source of any data set; None where there is none but the
      run's.
    data: the config's `data`: preprocessing, threads, cache.
    batch_size: global.
    probabilities: logits [B, K] -> float32 [B, K], what the loss takes for the classes'
      probabilities.
    shared: what evaluators compute once for a state.
  """

  model: nn.Module
  loss_fn: Callable[[jax.Array, jax.Array], jax.Array]
  mesh: Mesh
  load: Callable[[str], Any]
  data: ml_collections.ConfigDict
  batch_size: int
  load_dataset: Callable[[str, str], Any] | None = None
  probabilities: Callable[[jax.Array], jax.Array] = jax.nn.softmax
  shared: Shared = dataclasses.field(default_factory=Shared)

  def open(self, dataset: str | None, split: str) -> Any:
    """Returns a split of the run's data set (None) or of another one."""
    if dataset is None:
      return self.load(split)
    if self.load_dataset is None:
      raise UserError(f"dataset={dataset!r}: only the run's own data set can be read here")
    return self.load_dataset(dataset, split)

  @cached_property
  def features(self) -> Callable[[Any, Mapping[str, jax.Array]], tuple[jax.Array, ...]]:
    """Returns the jitted (variables, batch) -> features float32 [B, D], labels [B], mask [B].

    All of them whole on every device, hence in every process.
    """

    def features(variables: Any, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, ...]:
      whole = gathering.variables(variables, self.mesh)
      out = self.model.apply(whole, batch["image"], train=False).features
      return out.astype(jnp.float32), batch["label"], batch["mask"]

    return jax.jit(features, out_shardings=parallel.replicated(self.mesh))

  @property
  def eval_batch_size(self) -> int:
    """The run's batch size, rounded up so that it splits over the devices."""
    return -(-self.batch_size // self.mesh.size) * self.mesh.size
