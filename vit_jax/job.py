"""Everything that a config builds once and that its trunk and branches share."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from vit_jax import (
  adversarial_training,
  ascent,
  branches,
  chunks,
  contrastive,
  describe,
  distillation,
  evaluators,
  flops,
  gathering,
  initial,
  losses,
  models,
  optim,
  parallel,
  step,
  within,
)
from vit_jax import averages as averages_lib
from vit_jax import compiled as compiled_lib
from vit_jax import config as config_lib
from vit_jax import state as state_lib
from vit_jax.data import mixing, pipeline, pixel_range, sources
from vit_jax.data.fingerprint import Fingerprint, dataset_fingerprint
from vit_jax.data.resident import Resident
from vit_jax.models import target
from vit_jax.optim import schedules
from vit_jax.progress import gib, print_once, seconds

# Parameters of scanned layers: their leading axis is the depth, no axis of a matrix.
STACKED = r"(.*/)?blocks/.*"


@dataclasses.dataclass(frozen=True)
class Job:
  """The mesh, data, model, optimiser and compiled step of one config; see `build`."""

  config: ml_collections.ConfigDict
  name: str
  plan: branches.Plan
  mesh: Mesh
  load: Callable[[str], Any]  # split -> data source
  source: Any  # of the training split
  resident: Resident | None  # it, where it lives on the devices
  channels: int
  model: nn.Module
  learner: nn.Module  # what is trained: the model, or around it what only its loss needs
  tx: Any
  frozen: Any  # tree of bools like the parameters: which are not trained
  sam: optim.sam.Sam | None
  unperturbed: Any  # tree of bools like the parameters: which SAM leaves as they are
  attack: adversarial_training.Attack | None
  loss_fn: Callable[[jax.Array, jax.Array], jax.Array]
  teacher_model: nn.Module | None
  context: evaluators.Context  # what further evaluators need
  evaluators: dict[str, evaluators.Evaluator]

  @cached_property
  def config_hash(self) -> str:
    """Identifies what is computed; see `config.config_hash`."""
    return config_lib.config_hash(self.config)

  @cached_property
  def fingerprint(self) -> Fingerprint:
    """What identifies the training images, for copies of a data set differ."""
    return dataset_fingerprint(self.source)

  @cached_property
  def _init(self) -> Callable[[jax.Array], state_lib.TrainState]:
    def keep(params: Any) -> Any:
      if self.updates_within:
        return jnp.float32(0)  # the norm of the last gradient
      kept = self.sam is not None and self.sam.keeps
      return jax.tree.map(jnp.zeros_like, optim.frozen.hide(self.frozen, params)) if kept else None

    init = state_lib.init_fn(
      self.learner, self.tx, self.config.data.image_size, self.channels, keep
    )
    return lambda key: self.averages.begin(init(key))

  @property
  def updates_within(self) -> bool:
    """Whether parameters are updated within the backward pass; see within.py."""
    return isinstance(self.tx, optim.layered.Layered)

  @cached_property
  def averages(self) -> averages_lib.Averages:
    """The averages of the parameters that follow training."""
    return averages_lib.make(self.config.ema, self.config.lawa)

  @cached_property
  def target(self) -> state_lib.TrainState:
    """The shapes, dtypes and shardings of the state."""
    zero1 = self.config.mesh.zero1 != 1
    return state_lib.abstract(self._init, self.config.seed, self.mesh, zero1)

  def create_state(self) -> state_lib.TrainState:
    """Returns the state at step 0."""
    return state_lib.create(self._init, self.config.seed, self.target)

  @cached_property
  def num_params(self) -> int:
    """The number of scalars in the parameters, frozen ones included."""
    return state_lib.num_params(self.target)

  @property
  def model_name(self) -> str:
    """The model's name, and the parts of its shape that the config changes: "ViT-S/16 depth=6"."""
    changed = [
      f"{k}={v}"
      for k, v in self.config.model.items()
      if k != "name" and k not in models.NOT_SHAPE and v is not None
    ]
    return " ".join([self.config.model.name, *changed])

  @cached_property
  def flops_per_image(self) -> int:
    """Forward FLOPs, multiply and add counted separately."""
    own = flops.model_flops(self.model, self.config.data.image_size, self.channels)
    return own + contrastive.projection_flops(self.target.params)

  @property
  def forward_passes(self) -> float:
    """What training on an image costs, in forward passes: three for each gradient."""
    gradients = self.sam.passes if self.sam else 1
    return 3.0 * gradients + (self.attack.forward_passes if self.attack else 0)

  def _local_batches(self, start_step: int) -> Iterator[dict[str, np.ndarray]]:
    data = self.config.data
    return pipeline.train_batches(
      self.source,
      transforms=data.train,
      batch_size=self.config.batch_size,
      seed=self.config.seed,
      start_step=start_step,
      num_threads=data.num_threads,
      cache=data.cache,
      repeats=data.repeats,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
    )

  @property
  def most_steps(self) -> int:
    """How many steps `train_step` can do in one call."""
    return 1 if self.resident is None else min(self.config.log_every, chunks.MOST)

  def feed(self, start_step: int, ahead: int = 2) -> Callable[[int], dict[str, jax.Array]]:
    """Returns a function of a number of steps that gives what `train_step` takes for them.

    Args:
      start_step: the first of all.
      ahead: batches that are read early.
    """
    if self.resident is None:
      batches = parallel.to_devices(self._local_batches(start_step), self.mesh, ahead)
      return lambda count: next(batches)
    resident, begin = self.resident, start_step

    def chunk(count: int) -> dict[str, jax.Array]:
      nonlocal begin
      index = resident.indices(begin, count)
      begin += count
      return chunks.feed(index, self.most_steps, self.mesh)

    return chunk

  def batches(self, start_step: int) -> Iterator[dict[str, jax.Array]]:
    """Yields what `train_step` takes for one step each, from a step on."""
    feed = self.feed(start_step)
    while True:
      yield feed(1)

  @cached_property
  def teacher(self) -> distillation.Teacher | None:
    """The model that this one learns from, read from where the config says.

    Raises:
      UserError: its weights cannot be read, or do not fit.
    """
    if self.teacher_model is None:
      return None
    return distillation.read(self.config.distill, self.teacher_model, print_once)

  def _prepare(self, batch: step.Batch, key: jax.Array, at: jax.Array, *more: Any) -> step.Batch:
    """Does what comes before the gradient: looks images up, mixes them, asks the teacher.

    `more` are the images and labels of the resident set and the variables of the teacher, as far as
    there are any.
    """
    if self.resident is not None:
      images, labels, *more = more
      batch = self.resident.batch((images, labels), batch["index"], at)
      batch = jax.lax.with_sharding_constraint(batch, parallel.batch_sharding(self.mesh))
    options = mixing.Mixing(**self.config.mixing)
    if options:
      batch = mixing.make(options, self.source.info.num_classes)(batch, key, at)
    if self.teacher_model is not None:
      ask = distillation.asking(self.teacher_model, self.mesh, self.config.accumulate)
      batch = ask(batch, *more)
    return batch

  def _gradient(self, loss: Callable) -> Callable:
    gradient = self._clean_gradient(loss)
    if self.attack is None:
      return gradient
    pixels = pixel_range.of_text(self.config.data.train, self.channels, "config.data.train")
    return adversarial_training.make_gradient(
      gradient, loss, self.attack, pixels, self.mesh, self.config.accumulate
    )

  def _clean_gradient(self, loss: Callable) -> Callable:
    config = self.config
    if self.sam is None:
      return step.of_state(step.make_gradient(loss, self.mesh, config.accumulate, self.frozen))
    peak = config.optimizer.learning_rate
    return ascent.make_gradient(
      loss,
      self.mesh,
      config.accumulate,
      config.batch_size,
      self.sam,
      self.frozen,
      self.unperturbed,
      rates=(peak, peak * config.schedule.end),
    )

  @cached_property
  def _jitted(self) -> tuple[Any, tuple]:
    """The step to be compiled, and what it takes beside the state and a batch."""
    teacher = () if self.teacher is None else (self.teacher.place(self.mesh),)
    objective = distillation.objective(self.config.distill, self.loss_fn) if teacher else None
    if self.learner is not self.model:
      objective = contrastive.objective(self.config.contrastive)
    loss = step.make_loss(self.learner, self.loss_fn, self.frozen, objective)
    scattered = parallel.state_shardings(self.mesh, self.target.params)
    common = (
      self.tx,
      make_schedule(self.config),
      self.config.cooldown_shape,
      self.config.seed,
      self._prepare,
    )
    narrow = self.config.model.dtype == "bfloat16"
    if self.updates_within:
      held_as = jax.tree.map(lambda x: x.sharding, self.target.params)
      fn = within.make_train_step(loss, *common, held_as, scattered, narrow=narrow)
    else:
      loss = gathering.where_used(loss, scattered, narrow=narrow)
      fn = step.make_train_step(self._gradient(loss), *common)
    fn, held = self.averages.follow(fn), teacher
    if self.resident is not None:
      fn, held = chunks.repeat(fn, self.most_steps), (*self.resident.place(self.mesh), *teacher)
    shardings = jax.tree.map(lambda x: x.sharding, self.target)
    jitted = jax.jit(
      target.traced_for(self.mesh.devices.flat[0], fn),
      donate_argnums=0,
      out_shardings=(shardings, parallel.replicated(self.mesh)),
    )
    return jitted, held

  @property
  def train_step(self) -> Any:
    """The compiled `(state, batch) -> (state, metrics)`, its state donated.

    It does one step, or, where the set is resident, as many as `feed` was asked for: metrics are
    then [most_steps].
    """
    return self._compiled[0]

  @property
  def compile_seconds(self) -> float:
    """What tracing and compiling the step took."""
    return self._compiled[1]

  @cached_property
  def _compiled(self) -> tuple[Any, float]:
    """The compiled step and the seconds that it took to make; says what it needs."""
    jitted, held = self._jitted
    batch = self.feed(0, ahead=0)(1)
    print_once(describe.describe(self))
    start = time.perf_counter()
    compiled = jitted.lower(self.target, batch, *held).compile()
    spent = time.perf_counter() - start
    peak = compiled_lib.peak_bytes(compiled)
    needs = "" if peak is None else f": {gib(peak)} per device in a step"
    print_once(f"  compiled in {seconds(spent)}{needs}")
    return (lambda state, batch: compiled(state, batch, *held)) if held else compiled, spent

  def lower(self) -> jax.stages.Lowered:
    """Returns the step lowered from shapes alone, to be compiled for the mesh's devices."""
    return self.trace().lower()

  def trace(self) -> jax.stages.Traced:
    """Returns the step traced from shapes alone, to be lowered.

    Nothing is read and no state is made, so the devices need not be here; see ahead.py.
    """
    size, shape = self.config.data.image_size, (self.config.batch_size,)
    sharding = parallel.batch_sharding(self.mesh)
    batch = {
      "image": jax.ShapeDtypeStruct(
        (*shape, size, size, self.channels), jnp.float32, sharding=sharding
      ),
      "label": jax.ShapeDtypeStruct(shape, jnp.int32, sharding=sharding),
    }
    jitted, held = self._jitted
    return jitted.trace(self.target, batch, *held)


def make_schedule(config: ml_collections.ConfigDict) -> Callable[[jax.Array], jax.Array]:
  """Returns the trunk's learning rate as a function of the step."""
  return schedules.make(
    **config.schedule,
    learning_rate=config.optimizer.learning_rate,
    total_steps=config.total_steps,
  )


def _optimizer(config: ml_collections.ConfigDict, params: Any, frozen: Any) -> Any:
  if config.updates == "within":
    within.check(config, any(jax.tree.leaves(frozen)))
    return optim.layered.make(config.optimizer, params, within.stacked_path(params))
  return optim.make(
    config.optimizer, params, stacked=STACKED if config.model.scan else None, frozen=frozen
  )


@lru_cache(maxsize=4)
def _load(name: str, split: str, directory: str | None) -> Any:
  """Opens a split once for all rungs of a ladder, which then share its decoded images."""
  return sources.load(name, split, directory)


def build(
  config: ml_collections.ConfigDict,
  name: str,
  *,
  devices: Sequence[jax.Device] | None = None,
  load: Callable[[str], Any] | None = None,
  trains: bool = True,
) -> Job:
  """Builds all parts of a run; whatever is wrong with the config shows here, before any step.

  Args:
    config: see `vit_jax.config`.
    name: how the run is called in its measurements.
    devices: of the mesh; all that there are if None.
    load: split -> data source; None: the data set that the config names.
    trains: False: its model is but examined, on devices that need not divide the batch.

  Raises:
    UserError: the plan, the mesh, the batch, the data, the model or the optimiser.
  """
  plan = branches.plan(config.branches, config.cooldown, config.total_steps)
  initial.check(config)
  averages_lib.make(config.ema, config.lawa)
  mixing.Mixing(**config.mixing)
  make_schedule(config)
  schedules.check_cooldown(config.cooldown_shape)
  if plan.branches:
    schedules.check_trunk(config.schedule.name)
  optim.schedule_free.check(
    config.optimizer.name, config.schedule.name, config.cooldown, config.branches
  )
  mesh = parallel.make_mesh(**config.mesh, devices=devices)
  sam = optim.sam.resolve(config.sam, config.model.name)
  if trains:
    parallel.check_batch_size(config.batch_size, mesh, config.accumulate)
    ascent.check_groups(sam, config.batch_size, config.accumulate, mesh)
  attack = adversarial_training.resolve(config.adversarial)
  contrastive.check(config)

  if load is None:

    def load(split: str) -> Any:
      return _load(config.data.name, split, config.data.dir)

  source = load(config.data.split)
  fields = {k: v for k, v in config.model.items() if k != "name" and v is not None}
  model = models.create(
    config.model.name,
    num_classes=source.info.num_classes,
    image_size=config.data.image_size,
    **fields,
  )
  channels = source[0]["image"].shape[-1]
  if attack is not None:
    pixel_range.of_text(config.data.train, channels, "config.data.train")
  learner = contrastive.learner(config.contrastive, model)
  params = jax.eval_shape(
    lambda key: state_lib.init_variables(learner, key, config.data.image_size, channels),
    jax.random.key(0),
  )["params"]
  idle = () if learner is model else (contrastive.HEAD,)
  frozen = optim.frozen.mask(config.freeze, params, (*getattr(model, "frozen", ()), *idle))
  distillation.check(config.distill)
  teacher_model = None
  if config.distill.teacher is not None:
    teacher_model = distillation.create_model(
      config.distill, num_classes=source.info.num_classes, image_size=config.data.image_size
    )
  loss_fn = losses.make(
    config.loss.name,
    num_classes=source.info.num_classes,
    label_smoothing=config.loss.label_smoothing,
  )
  context = evaluators.Context(
    model=model,
    loss_fn=loss_fn,
    mesh=mesh,
    load=load,
    data=config.data,
    batch_size=config.batch_size,
    load_dataset=lambda dataset, split: _load(dataset, split, config.data.dir),
    probabilities=losses.PROBABILITIES[config.loss.name],
  )
  resident = None
  if config.data.resident:
    resident = Resident(
      source=source,
      transforms=config.data.train,
      batch_size=config.batch_size,
      seed=config.seed,
      repeats=config.data.repeats,
      num_threads=config.data.num_threads,
    )
  return Job(
    config=config,
    name=name,
    plan=plan,
    mesh=mesh,
    load=load,
    source=source,
    resident=resident,
    channels=channels,
    model=model,
    learner=learner,
    attack=attack,
    loss_fn=loss_fn,
    teacher_model=teacher_model,
    tx=_optimizer(config, params, frozen),
    frozen=frozen,
    sam=sam,
    unperturbed=optim.sam.unperturbed(sam.only, params, frozen) if sam else frozen,
    context=context,
    evaluators=evaluators.make(config.evaluators, context),
  )
