"""Errors of a classifier on corrupted images, as on ImageNet-C and CIFAR-10-C."""

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from vit_jax import gathering, parallel
from vit_jax.corruptions import (
  BENCHMARK,
  FILE_QUALITY,
  NAMES,
  SEVERITIES,
  VERSION,
  scores,
  store,
  variants,
)
from vit_jax.data import memory, pixel_range
from vit_jax.data.sources import Source
from vit_jax.errors import UserError
from vit_jax.evaluators import batches
from vit_jax.evaluators.classification import MAX_AHEAD
from vit_jax.evaluators.context import Context
from vit_jax.optim import options
from vit_jax.progress import track
from vit_jax.state import TrainState


@dataclasses.dataclass(frozen=True)
class Corruptions:
  """Corrupts every example of a split in 19 ways and 5 severities; see `vit_jax.corruptions`.

  Images are corrupted as bytes, at the size of the published ones: variant "imagenet" takes
  224 x 224 pixels out of the middle of an image whose shorter side has been made 256, variant
  "cifar" the images as they are stored. A model sees "cifar" images through all of
  `config.data.eval`, "imagenet" ones through its part from value_range or normalize on, resized to
  `config.data.image_size` before if that is not 224.

  Attributes:
    name: of the entry.
    context: of the run.
    split: of the data set.
    names: of the corruptions; none: all 19.
    severities: 1..5.
    variant: whose strengths, "imagenet" or "cifar"; None: "cifar" for images below 64 pixels.
    seed: of what is random in a corruption.
    examples: how many, evenly spread over the split; None: all.
    baseline: for mCE, "alexnet" or a JSON file of errors; see `scores.baseline`.
    cache: directory in which corrupted images are kept; None: $XDG_CACHE_HOME/vit_jax/corruptions;
      "none": they are made anew each time.
    geometry: transforms to the size at which images are corrupted; None: the variant's own.
    frost: directory of the original's photographs of frost; None: pictures made here.
    as_files: whether "imagenet" images go through JPEG of quality 85 after the corruption, as the
      published ones did.
    every: steps of training between two evaluations; 0: at the end only.
  """

  name: str
  context: Context
  split: str = "test"
  names: str | Sequence[str] = ()
  severities: int | Sequence[int] = SEVERITIES
  variant: str | None = None
  seed: int = 0
  examples: int | None = None
  baseline: str | None = None
  cache: str | None = None
  geometry: str | None = None
  frost: str | None = None
  as_files: bool = True
  every: int = 0

  @cached_property
  def _source(self) -> Source:
    data = self.context.data
    return memory.cached(self.context.load(self.split), data.cache, data.num_threads)

  @cached_property
  def _indices(self) -> np.ndarray:
    """The examples, by their number in the split."""
    n = len(self._source)
    size = n if self.examples is None else min(self.examples, n)
    return np.arange(size) * n // size

  @property
  def _names(self) -> tuple[str, ...]:
    return (self.names,) if isinstance(self.names, str) else tuple(self.names) or NAMES

  @property
  def _severities(self) -> tuple[int, ...]:
    return (self.severities,) if isinstance(self.severities, int) else tuple(self.severities)

  @property
  def _pairs(self) -> list[tuple[str, int]]:
    return [(name, severity) for name in self._names for severity in self._severities]

  @cached_property
  def _variant(self) -> str:
    return self.variant or variants.of_image(self._source[0]["image"])

  @property
  def _before(self) -> str:
    return variants.geometry(self._variant) if self.geometry is None else self.geometry

  @cached_property
  def _after(self) -> str:
    """The transforms of a corrupted image."""
    data = self.context.data
    if not self._before:
      return data.eval
    image = self._source[int(self._indices[0])]["image"]
    shape, size = variants.shaped(image, self._before).shape, data.image_size
    resized = "" if shape[:2] == (size, size) else f"resize({size}, 'bicubic', True)"
    numeric = pixel_range.split(data.eval, "config.data.eval")[1]
    return "|".join(filter(None, (resized, numeric)))

  @cached_property
  def _baseline(self) -> dict[str, float] | None:
    return None if self.baseline is None else scores.baseline(self.baseline)

  @cached_property
  def _rows(self) -> np.ndarray:
    """The places in the set, sorted, of the examples that this process reads."""
    n, size = len(self._indices), self.context.eval_batch_size
    local = size // jax.process_count()
    own = jax.process_index() * local + np.arange(local)
    steps = np.arange(-(-n // size))[:, None]
    return np.unique(np.minimum(steps * size + own, n - 1))

  @cached_property
  def _store(self) -> store.Store:
    return store.Store(
      source=self._source,
      indices=self._indices,
      rows=self._rows,
      variant=self._variant,
      seed=self.seed,
      frost=None if self.frost is None else Path(self.frost).expanduser(),
      before=self._before,
      quality=FILE_QUALITY if self.as_files and self._variant == "imagenet" else None,
      cache=self.cache,
      num_threads=self.context.data.num_threads,
    )

  @cached_property
  def _wrong(self) -> Any:
    """Returns the jitted `f(variables, batch) -> [examples, wrong ones]`."""
    model = self.context.model

    def wrong(variables: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
      variables = gathering.variables(variables, self.context.mesh)
      logits = model.apply(variables, batch["image"], train=False).logits
      mask = batch["mask"]
      return {"n": mask.sum(), "wrong": ((logits.argmax(-1) != batch["label"]) & mask).sum()}

    return jax.jit(wrong, out_shardings=parallel.replicated(self.context.mesh))

  @cached_property
  def _reading(self) -> Context:
    """The context for sets that are to be read once, as they come."""
    data = ml_collections.ConfigDict({**self.context.data.to_dict(), "cache": False})
    return dataclasses.replace(self.context, data=data)

  @property
  def protocol(self) -> dict[str, Any]:
    """The data, what is done to their images, and what the errors are divided by."""
    return {
      "dataset": self._source.info.name,
      "split": self.split,
      "examples": len(self._indices),
      "variant": self._variant,
      "seed": self.seed,
      "severities": list(self._severities),
      "corruptions": "all 19" if set(self._names) == set(NAMES) else list(self._names),
      "version": VERSION,
      "before": self._before,
      "jpeg_quality": self._store.quality,
      "transforms": self._after,
      "image_size": self.context.data.image_size,
      "frost": "made here" if self.frost is None else "photographs",
      "baseline": self.baseline,
    }

  def check(self) -> None:
    """Checks the options and reads one batch.

    Raises:
      UserError: an option out of range, no such split, images of several classes, that cannot be
        corrupted or come out in another size than the model's, or no room on the disk for what is
        to be kept.
    """
    where = f"config.evaluators.{self.name}"
    for key in ("seed", "examples"):
      if getattr(self, key) is not None:
        options.check_range(f"{where}.{key}", getattr(self, key), int(key != "seed"), integer=True)
    batches.check_one_class(self._source, where)
    variants.geometry(self._variant)
    for key, values in (("names", self._names), ("severities", self._severities)):
      if not values or len(set(values)) < len(values):
        raise UserError(f"{where}.{key}={values!r} must be one, or several different ones")
    if self._baseline is not None:
      complete = set(self._severities) == set(SEVERITIES) and set(self._names) >= set(BENCHMARK)
      if not complete:
        raise UserError(
          f"{where}: a baseline is for all 5 severities of at least the 15 corruptions"
        )
      if self.baseline == scores.PUBLISHED and self._variant != "imagenet":
        raise UserError(
          f"{where}: baseline={self.baseline!r} is of ImageNet-C: give a JSON file of "
          "a model's errors on these images"
        )
    made = [self._store.made(*pair) for pair in self._pairs]  # all of them: their names are checked
    batches.check(self._reading, made[0], self._after, "config.data.eval")
    self._store.check(self._pairs, f"evaluator {self.name}")

  def __call__(self, state: TrainState) -> dict[str, float]:
    """Returns errors (fractions) and the number of examples; see `scores.summary`."""
    errors = {
      pair: self._error(state, *pair) for pair in track(self._pairs, self.name, len(self._pairs))
    }
    found = scores.summary(errors, self._names, self._severities, self._baseline)
    return {
      **{f"{self.name}_{key}": value for key, value in found.items()},
      f"{self.name}_examples": len(self._indices),
    }

  def _error(self, state: TrainState, name: str, severity: int) -> float:
    """Returns the share of the examples that the model gets wrong."""
    local = batches.read(self._reading, self._store.get(name, severity), self._after)
    parts = []
    for batch in parallel.to_devices(local, self.context.mesh):
      parts.append(self._wrong(state.variables, batch))
      if len(parts) > MAX_AHEAD:
        jax.block_until_ready(parts[-MAX_AHEAD])
    parts = jax.device_get(parts)
    n, wrong = (sum(float(p[key]) for p in parts) for key in ("n", "wrong"))
    if n != len(self._indices):
      raise AssertionError(f"{self.name}: evaluated {n:.0f} of {len(self._indices)} examples")
    return wrong / n
