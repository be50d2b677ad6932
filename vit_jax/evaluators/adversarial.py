"""Errors of a classifier on attacked images: FGSM and PGD, by any number of steps."""

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import adversarial, gathering, parallel
from vit_jax.data import pixel_range
from vit_jax.data.sources import Source
from vit_jax.data.subset import Subset
from vit_jax.errors import UserError
from vit_jax.evaluators import batches
from vit_jax.evaluators.classification import MAX_AHEAD
from vit_jax.evaluators.context import Context
from vit_jax.optim import options
from vit_jax.progress import track
from vit_jax.state import TrainState


@dataclasses.dataclass(frozen=True)
class Adversarial:
  """Attacks every example of a split; see `vit_jax.adversarial`.

  The attack knows the model (BatchNorm with its running statistics, no dropout) and raises the
  run's loss for the true label. What is random depends on (seed, place of the example in the
  split) alone. The defaults are PGD-10 as in 2106.01548, table 5.

  With several numbers of `steps` each is an attack of its own, and they check the defence: an
  attack of more steps that finds less means that the gradient is masked, and the model not as good
  as it looks (Athalye et al., 1802.00420, section 3.1).

  Attributes:
    name: of the entry.
    context: of the run.
    split: of the data set.
    epsilon: radius, of pixels in 0..1.
    steps: of the attack, a number or several of them.
    step_size: of pixels in 0..1; None: 1.25 epsilon / steps.
    norm: "linf" or "l2", of an image.
    random_start: whether it begins anywhere in the ball, else at the image; FGSM is steps=1
      without.
    restarts: attacks on each example, of which the worst counts.
    seed: of the random starts.
    examples: how many, evenly spread over the split; None: all.
    every: steps of training between two evaluations; 0: at the end only.
  """

  name: str
  context: Context
  split: str = "test"
  epsilon: float = 2 / 255
  steps: int | Sequence[int] = 10
  step_size: float | None = None
  norm: str = "linf"
  random_start: bool = True
  restarts: int = 1
  seed: int = 0
  examples: int | None = None
  every: int = 0

  @property
  def _numbers(self) -> tuple[int, ...]:
    return tuple(self.steps) if isinstance(self.steps, Sequence) else (self.steps,)

  @cached_property
  def _source(self) -> Source:
    source = self.context.load(self.split)
    if self.examples is None or self.examples >= len(source):
      return source
    return Subset(source, np.arange(self.examples) * len(source) // self.examples)

  @cached_property
  def _range(self) -> pixel_range.PixelRange:
    text, channels = self.context.data.eval, self._source[0]["image"].shape[-1]
    return pixel_range.of_text(text, channels, "config.data.eval")

  @cached_property
  def _sums(self) -> Any:
    """Returns the jitted `f(variables, batch, first position) -> sums over the mask`."""
    model, loss_fn, numbers = self.context.model, self.context.loss_fn, self._numbers
    threat = adversarial.Threat(
      epsilon=self.epsilon, norm=self.norm, random_start=self.random_start
    )
    strides = [adversarial.stride(self.epsilon, n, self.step_size) for n in numbers]

    def sums(variables: Any, batch: dict[str, jax.Array], first: jax.Array) -> dict[str, jax.Array]:
      mask, images = batch["mask"], batch["image"]
      variables = gathering.variables(variables, self.context.mesh)

      def score(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = model.apply(variables, images, train=False).logits
        return logits.argmax(-1) != batch["label"], loss_fn(logits, batch["label"])

      keys = adversarial.keys(jax.random.key(self.seed), first + jnp.arange(len(images)))

      def attack(how: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return adversarial.worst(threat, score, images, keys, self._range, *how, self.restarts)

      wrong, loss = jax.lax.map(attack, (jnp.array(numbers), jnp.array(strides, jnp.float32)))
      clean_wrong, clean_loss = score(images)
      return {
        "n": mask.sum(),
        "clean": (clean_wrong & mask).sum(),
        "clean_loss": jnp.where(mask, clean_loss, 0).sum(),
        "any": (wrong.any(0) & mask).sum(),
        "highest_loss": jnp.where(mask, loss.max(0), 0).sum(),
        "wrong": (wrong & mask).sum(1),
        "loss": jnp.where(mask, loss, 0).sum(1),
      }

    return jax.jit(sums, out_shardings=parallel.replicated(self.context.mesh))

  @property
  def protocol(self) -> dict[str, Any]:
    """The data, their preprocessing, and the attack."""
    data, numbers = self.context.data, self._numbers
    return {
      "dataset": self._source.info.name,
      "split": self.split,
      "examples": len(self._source),
      "transforms": data.eval,
      "image_size": data.image_size,
      "epsilon": self.epsilon,
      "norm": self.norm,
      "steps": list(numbers),
      "step_size": [adversarial.stride(self.epsilon, n, self.step_size) for n in numbers],
      "random_start": self.random_start,
      "restarts": self.restarts,
      "seed": self.seed,
    }

  def check(self) -> None:
    """Checks the options and reads one batch.

    Raises:
      UserError: an option out of range, no such split, preprocessing whose range of pixels is not
        known, images of several classes, or of another size than the model's.
    """
    where = f"config.evaluators.{self.name}"
    adversarial.Threat(epsilon=self.epsilon, norm=self.norm).check(where)
    if not self._numbers or len(set(self._numbers)) < len(self._numbers):
      raise UserError(f"{where}.steps={self.steps!r} must be a number, or several different ones")
    for number in self._numbers:
      options.check_range(f"{where}.steps", number, 1, integer=True)
    if self.step_size is not None:
      options.check_range(f"{where}.step_size", self.step_size, 0.0)
    for key, low in (("restarts", 1), ("seed", 0), ("examples", 1)):
      if getattr(self, key) is not None:
        options.check_range(f"{where}.{key}", getattr(self, key), low, integer=True)
    if self.restarts > 1 and not self.random_start:
      raise UserError(f"{where}: restarts={self.restarts} without random_start are all the same")
    batches.check_one_class(self._source, where)
    self._range  # noqa: B018 - is read and kept
    batches.check(self.context, self._source, self.context.data.eval, "config.data.eval")

  def __call__(self, state: TrainState) -> dict[str, float]:
    """Returns errors (fractions) and losses (nats), and the number of examples.

    `<name>_clean_error`, `_clean_loss`: of the images as they are. `<name>_error`, `_loss`: of the
    attacked ones. With several numbers of steps these are of the worst attack on each example;
    `<name>_steps<k>_error` and `_loss` are of each, and `<name>_masking` is how much of the error,
    at most, an attack of fewer steps has more than one of more: about 0 unless gradients are
    masked.
    """
    n, size = len(self._source), self.context.eval_batch_size
    local = batches.read(self.context, self._source, self.context.data.eval)
    parts, steps = [], -(-n // size)
    for batch in track(parallel.to_devices(local, self.context.mesh), self.name, steps):
      parts.append(self._sums(state.variables, batch, len(parts) * size))
      if len(parts) > MAX_AHEAD:
        jax.block_until_ready(parts[-MAX_AHEAD])
    parts = jax.device_get(parts)
    total = {k: np.sum([p[k] for p in parts], axis=0, dtype=np.float64) for k in parts[0]}
    if total["n"] != n:
      raise AssertionError(f"{self.name}: evaluated {total['n']:.0f} of {n} examples")
    found = {
      "clean_error": total["clean"] / n,
      "clean_loss": total["clean_loss"] / n,
      "error": total["any"] / n,
      "loss": total["highest_loss"] / n,
    }
    if len(self._numbers) > 1:
      errors = dict(sorted(zip(self._numbers, total["wrong"] / n, strict=True)))
      losses = dict(zip(self._numbers, total["loss"] / n, strict=True))
      for k, error in errors.items():
        found |= {f"steps{k}_error": error, f"steps{k}_loss": losses[k]}
      ordered = np.array(list(errors.values()))
      found["masking"] = np.max(np.maximum.accumulate(ordered) - ordered)
    return {f"{self.name}_{k}": float(v) for k, v in found.items()} | {f"{self.name}_examples": n}
