"""The supervised contrastive loss of held-out images, for runs that have no head to ask."""

import dataclasses
from functools import cached_property
from typing import Any

import jax

from vit_jax import contrastive, gathering, parallel
from vit_jax.errors import UserError
from vit_jax.evaluators import batches
from vit_jax.evaluators.classification import MAX_AHEAD
from vit_jax.evaluators.context import Context
from vit_jax.progress import track
from vit_jax.state import TrainState


@dataclasses.dataclass(frozen=True)
class Contrastive:
  """Compares the projections of one split's images within its batches, one view of each.

  The loss depends on how many images are compared: the batch size belongs to the result.

  Attributes:
    name: of the entry.
    context: of the run.
    split: of the data set.
    temperature: of the loss.
    every: steps of training between two evaluations; 0: at the end only.
  """

  name: str
  context: Context
  split: str = "test"
  temperature: float = 0.1
  every: int = 0

  @cached_property
  def _source(self) -> Any:
    return self.context.load(self.split)

  @cached_property
  def _sums(self) -> Any:
    """Returns the jitted `f(variables, batch) -> sums over the mask`."""

    def sums(variables: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
      model = contrastive.of_variables(self.context.model, variables)
      variables = gathering.variables(variables, self.context.mesh)
      vectors = model.apply(variables, batch["image"], train=False).features
      losses, counts = contrastive.supcon(
        vectors, batch["label"], self.temperature, mask=batch["mask"]
      )
      return {"n": batch["mask"].sum(), "loss": losses.sum(), "anchors": counts.sum()}

    return jax.jit(sums, out_shardings=parallel.replicated(self.context.mesh))

  @property
  def protocol(self) -> dict[str, Any]:
    """The data, their preprocessing, and what is compared with what."""
    data = self.context.data
    return {
      "dataset": self._source.info.name,
      "split": self.split,
      "transforms": data.eval,
      "image_size": data.image_size,
      "temperature": self.temperature,
      "batch_size": self.context.eval_batch_size,
    }

  def check(self) -> None:
    """Reads one batch.

    Raises:
      UserError: a temperature out of range, no such split, or images of another size than the
        model's.
    """
    where = f"config.evaluators.{self.name}"
    if not 0 < self.temperature < float("inf"):
      raise UserError(f"{where}.temperature={self.temperature} must be above 0")
    batches.check(self.context, self._source, self.context.data.eval, "config.data.eval")

  def __call__(self, state: TrainState) -> dict[str, float]:
    """Returns the mean loss (nats) of the images that have a positive, and the number of images.

    Raises:
      UserError: the weights have no projection.
    """
    if contrastive.of_variables(self.context.model, state.variables) is None:
      raise UserError(
        f"config.evaluators.{self.name}: the weights have no projection: they are not of "
        "contrastive pretraining, or read without it, as after training: use fewshot, "
        "linear_probe or knn"
      )
    n = len(self._source)
    local = batches.read(self.context, self._source, self.context.data.eval)
    parts, steps = [], -(-n // self.context.eval_batch_size)
    for batch in track(parallel.to_devices(local, self.context.mesh), self.name, steps):
      parts.append(self._sums(state.variables, batch))
      if len(parts) > MAX_AHEAD:
        jax.block_until_ready(parts[-MAX_AHEAD])
    parts = jax.device_get(parts)
    total = {k: sum(float(p[k]) for p in parts) for k in parts[0]}
    if total["n"] != n:
      raise AssertionError(f"{self.name}: evaluated {total['n']:.0f} of {n} examples")
    return {
      f"{self.name}_loss": total["loss"] / max(total["anchors"], 1),
      f"{self.name}_examples": n,
    }
