"""Errors, loss and calibration over every example of a split, each counted exactly once."""

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import gathering, parallel
from vit_jax.errors import UserError
from vit_jax.evaluators import batches, calibration, class_rules
from vit_jax.evaluators.context import Context
from vit_jax.evaluators.real_labels import Reassessed
from vit_jax.progress import track
from vit_jax.state import TrainState

TOP = 5

# Batches that may be under way on the devices: enough to keep them busy, few enough to fit.
MAX_AHEAD = 4


def rank(logits: jax.Array, label: jax.Array) -> jax.Array:
  """Returns how many classes come before the label: 0 is a right answer.

  Of equal logits the class with the lower number comes first, as for argmax; a model that does not
  tell classes apart is thus right as often as chance, not always.

  Args:
    logits: [B, K].
    label: integers [B].
  """
  own = jnp.take_along_axis(logits, label[:, None], axis=1)
  first = jnp.arange(logits.shape[1]) < label[:, None]
  return ((logits > own) | ((logits == own) & first)).sum(1)


@dataclasses.dataclass(frozen=True)
class Classification:
  """Evaluates a classifier on one split.

  Labels are one class of each example or, float [B, K], any number of them; an example without any
  is left out. Of another data set than the run's, or with ReaL's labels, the classes are found
  among the model's as class_rules.py and real_labels.py say.

  Attributes:
    name: of the entry; its metrics begin with it.
    context: of the run.
    split: of the data set.
    every: steps between two times; 0: at the end only.
    dataset: any data set; None: the run's own.
    transforms: its preprocessing; None: config.data.eval.
    real: the path of ReaL's real.json, for ImageNet's validation images.
    classes: a file with the names of the classes that the data set has images of, one a line, where
      it lists more: the 200 of ImageNet-R and -A as TFDS has them.
    mappings: the directory of that name of ObjectNet.
    model_classes: a file with the names of the model's classes, one a line, in the order of the
      logits; None: the run's data set tells.
  """

  name: str
  context: Context
  split: str = "test"
  every: int = 0
  dataset: str | None = None
  transforms: str | None = None
  real: str | None = None
  classes: str | None = None
  mappings: str | None = None
  model_classes: str | None = None

  @cached_property
  def _source(self) -> Any:
    source = self.context.open(self.dataset, self.split)
    return source if self.real is None else Reassessed(source, self.real, len(self._model_classes))

  @cached_property
  def _model_classes(self) -> Sequence[str]:
    if self.model_classes is not None:
      return class_rules.read_names(self.model_classes)
    if self.dataset is None:
      return self.context.open(None, self.split).info.class_names
    return self.context.open(None, self.context.data.split).info.class_names

  @cached_property
  def _rule(self) -> class_rules.ClassRule | None:
    """What the labels mean; None: they are the model's classes."""
    if self.real is not None or (self.dataset, self.classes, self.mappings) == (None, None, None):
      return None
    names = self._source.info.class_names
    try:
      return class_rules.make(
        names, self._model_classes, classes=self.classes, mappings=self.mappings
      )
    except UserError as e:
      raise UserError(f"config.evaluators.{self.name}: {e}") from None

  @property
  def _text(self) -> str:
    return self.context.data.eval if self.transforms is None else self.transforms

  @property
  def protocol(self) -> dict[str, Any]:
    """The data, their preprocessing, and what counts as right."""
    rule = f"argmax of all {self._source.info.num_classes} classes"
    if self.real is not None:
      rule += ", right if it is one of the image's ReaL labels; images without any left out"
    return {
      "dataset": self._source.info.name,
      "split": self.split,
      "transforms": self._text,
      "image_size": self.context.data.image_size,
      "class_rule": rule if self._rule is None else self._rule.describe(),
    }

  @cached_property
  def _sums(self) -> Any:
    """Returns the jitted `f(variables, batch) -> {n, wrong, ...}`, summed over the mask."""
    model, loss_fn, rule = self.context.model, self.context.loss_fn, self._rule

    def sums(variables: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
      variables = gathering.variables(variables, self.context.mesh)
      logits = model.apply(variables, batch["image"], train=False).logits
      probabilities = self.context.probabilities(logits.astype(jnp.float32))
      label = batch["label"]
      if rule is not None:
        label = jnp.asarray(rule.table)[label]
      if label.ndim == 1:
        counted, best = batch["mask"], label
        right = jax.nn.one_hot(label, logits.shape[1])
      else:
        right = label > 0
        counted = batch["mask"] & right.any(1)
        # Of several right classes the one with the highest logit.
        best = jnp.where(right, logits, -jnp.inf).argmax(1)
      wrong = logits.argmax(-1) != best
      out = {
        "seen": batch["mask"].sum(),
        "n": counted.sum(),
        "wrong": (wrong & counted).sum(),
        "wrong5": ((rank(logits, best) >= TOP) & counted).sum(),
        **calibration.sums(probabilities, ~wrong, counted),
      }
      if rule is not None and rule.is_partial:
        inside = np.isin(np.arange(rule.num_logits), rule.subset)
        among = jnp.where(inside, logits, -jnp.inf).argmax(-1)
        out["restricted_wrong"] = ((among != best) & counted).sum()
      if self._has_targets:
        loss = loss_fn(logits, batch["label"] if rule is None else best)
        out["loss"] = jnp.where(counted, loss, 0).sum()
        brier = calibration.brier(probabilities, right)
        out["brier"] = jnp.where(counted, brier, 0).sum()
      return out

    return jax.jit(sums, out_shardings=parallel.replicated(self.context.mesh))

  @property
  def _has_targets(self) -> bool:
    """Whether the labels are what the loss takes, rather than a choice of right answers."""
    return self.real is None and (self._rule is None or self._rule.is_single)

  def check(self) -> None:
    """Reads one batch.

    Raises:
      UserError: no such split or file, a class that the model does not know, a wrong transform, or
        images of another size than the model's.
    """
    where = "config.data.eval"
    if self.transforms is not None:
      where = f"config.evaluators.{self.name}.transforms"
    if self.real is not None and (self.classes, self.mappings) != (None, None):
      raise UserError(f"config.evaluators.{self.name}: real=… goes without classes and mappings")
    batches.check(self.context, self._source, self._text, where)
    _ = self._rule

  def __call__(self, state: TrainState) -> dict[str, float]:
    """Returns the metrics, whose names begin with that of the entry.

    error: fraction whose highest logit is no class of the example (1 - precision@1, which is
      there as well where examples have several).
    restricted_error: the same among the logits that the data set has classes for, where it lacks
      some of the model's.
    top5_error: fraction without a class among the five highest logits, with more than five classes.
    loss: nats per example.
    ece, brier: see calibration.py. There is no loss and no Brier score where any of several answers
      is right (ReaL, ObjectNet), for those are no probabilities.
    examples: that are counted.
    """
    parts = []
    read = parallel.to_devices(
      batches.read(self.context, self._source, self._text), self.context.mesh
    )
    size = self.context.eval_batch_size
    for batch in track(read, self.name, -(-len(self._source) // size)):
      parts.append(self._sums(state.variables, batch))
      if len(parts) > MAX_AHEAD:
        jax.block_until_ready(parts[-MAX_AHEAD])
      several = batch["label"].ndim > 1
    parts = jax.device_get(parts)
    total = {k: np.sum([np.asarray(p[k], np.float64) for p in parts], axis=0) for k in parts[0]}
    if total["seen"] != len(self._source):
      raise AssertionError(
        f"{self.name}: evaluated {total['seen']:.0f} of {len(self._source)} examples"
      )
    n = float(total["n"])
    if n == 0:
      raise UserError(f"{self.name}: no example of {self.split} has a label")
    out = {"error": total["wrong"] / n}
    if several:
      out["precision_at_1"] = 1 - total["wrong"] / n
    if "restricted_wrong" in total:
      out["restricted_error"] = total["restricted_wrong"] / n
    if self._num_logits > TOP:
      out[f"top{TOP}_error"] = total["wrong5"] / n
    for key in ("loss", "brier"):
      if key in total:
        out[key] = total[key] / n
    out["ece"] = calibration.error(total, n)
    named = {f"{self.name}_{key}": float(value) for key, value in out.items()}
    return named | {f"{self.name}_examples": int(n)}

  @property
  def _num_logits(self) -> int:
    return self._source.info.num_classes if self._rule is None else self._rule.num_logits
