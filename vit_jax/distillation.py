"""Learning from a teacher (Touvron et al. 2020, "DeiT", arXiv:2012.12877, section 4).

  loss = (1 - alpha) CE(logits, labels) + alpha KD(distilled logits, teacher)

The second term is that of the distillation head; a model without one learns both with its one
head. CE is the config's loss, with its label smoothing; KD is

- hard: the cross-entropy with the teacher's argmax, not smoothed (section 4, equation 3);
- soft: T^2 KL(softmax(teacher / T) || softmax(student / T)), the mean over the batch (equation 2).
  DeiT's published code divides by batch x classes instead: alpha = 0.1 there weighs the term as
  0.1 / K against 0.9 here.

The teacher is any model of this project, in evaluation and in its own dtype, and sees the very
images that the student sees, cropped, mixed and normalised by the student's config. That is why its
logits are not kept from epoch to epoch: a view is a function of (seed, step, example) and never
comes again. They are computed once a step, before the gradient, so that methods that take several
gradients, such as SAM, ask it once, and none flows into it.

A run's FLOPs count the student alone.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from flax import linen as nn
from jax.sharding import Mesh

from vit_jax import gathering, initial, models, parallel, rundir
from vit_jax.errors import UserError, unknown
from vit_jax.losses import softmax_xent
from vit_jax.models.output import Output

Batch = dict[str, jax.Array]

KINDS = ("hard", "soft")
LOGITS = "teacher_logits"  # the batch's entry for the loss, float32 [B, K]


@dataclasses.dataclass(frozen=True)
class Teacher:
  """A model that others learn from.

  Attributes:
    model: in its own dtype.
    variables: its parameters and statistics, NumPy arrays.
    sha256: of the weights, see `initial.Initial`.
  """

  model: nn.Module
  variables: dict[str, Any]
  sha256: str

  def place(self, mesh: Mesh) -> dict[str, jax.Array]:
    """Returns the variables on the devices, sharded like a state."""
    return parallel.place(self.variables, mesh)


def soft_loss(student: jax.Array, teacher: jax.Array, temperature: float) -> jax.Array:
  """Returns T^2 KL(softmax(teacher / T) || softmax(student / T)) of each example, in nats.

  Args:
    student: logits [B, K], any float dtype.
    teacher: logits [B, K], any float dtype.
    temperature: T.

  Returns:
    float32 [B].
  """
  log_p = jax.nn.log_softmax(teacher.astype(jnp.float32) / temperature)
  log_q = jax.nn.log_softmax(student.astype(jnp.float32) / temperature)
  return temperature**2 * jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def hard_loss(student: jax.Array, teacher: jax.Array) -> jax.Array:
  """Returns the cross-entropy with the teacher's argmax, float32 [B]; logits [B, K]."""
  return softmax_xent(student, teacher.argmax(-1))


def check(config: ml_collections.ConfigDict) -> None:
  """Checks the group `distill` of a config, without reading weights.

  Raises:
    UserError: a wrong value, a path that is not there, or a directory without a checkpoint.
  """
  if config.kind not in KINDS:
    raise unknown("config.distill.kind", config.kind, KINDS)
  if not 0 <= config.alpha <= 1:
    raise UserError(f"config.distill.alpha={config.alpha} must lie in 0..1")
  if not 0 < config.temperature < float("inf"):
    raise UserError(f"config.distill.temperature={config.temperature} must be above 0")
  if config.teacher is not None:
    initial.check_path("config.distill.teacher", config.teacher)


def objective(
  config: ml_collections.ConfigDict, loss_fn: Callable[[jax.Array, jax.Array], jax.Array]
) -> Callable[[Output, Batch], jax.Array]:
  """Returns `f(output of the student, batch with LOGITS) -> mean loss`, float32 [].

  Args:
    config: the group `distill`.
    loss_fn: (logits [B, K], labels) -> float32 [B], for the labels' term.
  """

  def loss(out: Output, batch: Batch) -> jax.Array:
    teacher = jax.lax.stop_gradient(batch[LOGITS])
    student = out.logits if out.distilled_logits is None else out.distilled_logits
    if config.kind == "hard":
      taught = hard_loss(student, teacher)
    else:
      taught = soft_loss(student, teacher, config.temperature)
    labelled = loss_fn(out.logits, batch["label"])
    return ((1 - config.alpha) * labelled + config.alpha * taught).mean()

  return loss


def asking(model: nn.Module, mesh: Mesh, parts: int) -> Callable[[Batch, Any], Batch]:
  """Returns `f(batch, variables of the teacher) -> the batch with LOGITS`.

  Args:
    model: the teacher.
    mesh: over which batches are spread.
    parts: in which the batch is shown to it one after the other, to save memory.
  """

  def ask(batch: Batch, variables: Any) -> Batch:
    variables = gathering.variables(variables, mesh)

    def logits(images: jax.Array) -> jax.Array:
      return model.apply(variables, images, train=False).logits

    if parts == 1:
      return {**batch, LOGITS: logits(batch["image"])}
    images = parallel.cut(batch["image"], parts, mesh)
    return {**batch, LOGITS: parallel.join(jax.lax.map(logits, images), mesh)}

  return ask


def create_model(
  config: ml_collections.ConfigDict, *, num_classes: int, image_size: int
) -> nn.Module:
  """Returns the teacher's model: that of its run, changed or without one given by `model`.

  Args:
    config: the group `distill`, its `teacher` set.
    num_classes: of the student.
    image_size: of the student's images; the teacher's positions are resized to it.

  Raises:
    UserError: a file without `model.name`, a run without its config, or a model that is none.
  """
  fields = {k: v for k, v in config.model.items() if v is not None}
  path = Path(config.teacher).expanduser()
  if path.is_dir():
    fields = _run_config(path)["model"] | fields
  elif "name" not in fields:
    raise UserError(
      f"config.distill.teacher: {path} does not say of which model it is: give "
      "config.distill.model.name"
    )
  fields = {k: v for k, v in fields.items() if v is not None}
  name = fields.pop("name")
  try:
    return models.create(name, num_classes=num_classes, image_size=image_size, **fields)
  except UserError as e:
    raise UserError(f"config.distill: the teacher's model: {e}") from e


def read(
  config: ml_collections.ConfigDict, model: nn.Module, log: Callable[[str], None]
) -> Teacher:
  """Reads the teacher's weights.

  Args:
    config: the group `distill`.
    model: see `create_model`.
    log: is told what becomes of each tensor.

  Raises:
    UserError: they cannot be read, or do not fit the model.
  """
  try:
    found = initial.read_weights(config.teacher, model, log)
  except UserError as e:
    raise UserError(f"config.distill.teacher: {e}") from e
  return Teacher(model, found.variables, found.sha256)


def _run_config(directory: Path) -> dict[str, Any]:
  path = directory / rundir.CONFIG_FILE
  try:
    config = json.loads(path.read_text())
    config["model"]["name"]  # noqa: B018 - is looked for
  except (OSError, ValueError, KeyError, TypeError) as e:
    raise UserError(
      f"config.distill.teacher: {path} is no config of a run: restore it, or give a weights file"
    ) from e
  return config
