"""One training step: the gradient of the mean loss of a global batch, and the update."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from vit_jax import parallel
from vit_jax.models.output import Output
from vit_jax.optim import frozen as frozen_lib
from vit_jax.optim import schedule_free, schedules
from vit_jax.state import TrainState, as_variables

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
LossFn = Callable[[jax.Array, jax.Array], jax.Array]


def preparation_key(key: jax.Array) -> jax.Array:
  """Returns the key for what happens to a step's batch before its gradient."""
  # No micro-batch, whose streams count up, comes so far.
  return jax.random.fold_in(key, 2**31 - 1)


def make_loss(
  model: nn.Module,
  loss_fn: LossFn,
  frozen: Any = None,
  objective: Callable[[Output, Batch], jax.Array] | None = None,
) -> Callable:
  """Returns `f(params, batch_stats, batch, key) -> (mean loss, new batch_stats)` for training.

  A distillation head without a teacher learns from the labels too: the mean of both heads' losses.

  Args:
    model: called with `train=True`.
    loss_fn: (logits [B, K], labels) -> float32 [B].
    frozen: tree of bools like the parameters; BatchNorm that is frozen keeps its statistics.
    objective: the mean loss of the model's output for a batch, where it is not that of `loss_fn`.
  """

  def labelled(out: Output, batch: Batch) -> jax.Array:
    value = loss_fn(out.logits, batch["label"]).mean()
    if out.distilled_logits is not None:
      value = (value + loss_fn(out.distilled_logits, batch["label"]).mean()) / 2
    return value

  def loss(params: Any, batch_stats: Any, batch: Batch, key: jax.Array) -> tuple[jax.Array, Any]:
    with frozen_lib.hold_statistics(frozen):
      out, changed = model.apply(
        as_variables(params, batch_stats),
        batch["image"],
        train=True,
        rngs={"dropout": key},
        mutable=["batch_stats"],
      )
    return (objective or labelled)(out, batch), changed.get("batch_stats", {})

  return loss


def make_gradient(loss: Callable, mesh: Mesh, accumulate: int, frozen: Any = None) -> Callable:
  """Returns `f(params, batch_stats, batch, key) -> (loss, batch_stats, grads)`.

  The gradient has None in the place of frozen parameters (a tree of bools, see `optim.frozen`),
  and nothing is computed for them.

  With `accumulate` > 1 the batch is cut into as many micro-batches, one after the other, whose
  gradients are averaged in float32: the same gradient in less memory. Micro-batch j takes the
  examples j, j + accumulate, …, so that each is spread over all devices as the batch is.

  Batch normalisation sees micro-batches: each is normalised by its own mean and variance (over all
  devices), and the running statistics move with each of them, one after the other, `accumulate`
  times per step. They are averages over the last micro-batches instead of the last batches, and the
  gradient is the mean of those of the micro-batches, not that of one large batch.
  """

  def trained(params: Any) -> Any:
    return params if frozen is None else frozen_lib.hide(frozen, params)

  def value_and_grad(params: Any, *args: Any) -> tuple:
    def of_trained(part: Any) -> tuple:
      return loss(frozen_lib.show(part, params), *args)

    return jax.value_and_grad(of_trained, has_aux=True)(trained(params))

  if accumulate == 1:

    def plain(params: Any, batch_stats: Any, batch: Batch, key: jax.Array) -> tuple:
      (value, batch_stats), grads = value_and_grad(params, batch_stats, batch, key)
      return value, batch_stats, grads

    return plain

  def accumulated(params: Any, batch_stats: Any, batch: Batch, key: jax.Array) -> tuple:
    def body(carry: tuple, micro: tuple[jax.Array, Batch]) -> tuple[tuple, None]:
      total, stats, grads = carry
      index, part = micro
      (value, stats), g = value_and_grad(params, stats, part, jax.random.fold_in(key, index))
      return (total + value, stats, jax.tree.map(jnp.add, grads, g)), None

    zeros = jax.tree.map(jnp.zeros_like, trained(params))
    parts = jax.tree.map(lambda x: parallel.cut(x, accumulate, mesh), batch)
    (total, stats, grads), _ = jax.lax.scan(
      body, (jnp.float32(0), batch_stats, zeros), (jnp.arange(accumulate), parts)
    )
    return total / accumulate, stats, jax.tree.map(lambda g: g / accumulate, grads)

  return accumulated


def of_state(gradient: Callable) -> Callable:
  """Returns `f(state, batch, key, learning_rate) -> (loss, state, grads)`, which a step calls.

  The state comes back with whatever else the gradient changes: here, the statistics.

  Args:
    gradient: see `make_gradient`.
  """

  def found(
    state: TrainState, batch: Batch, key: jax.Array, learning_rate: jax.Array
  ) -> tuple[jax.Array, TrainState, Any]:
    del learning_rate
    loss, batch_stats, grads = gradient(state.params, state.batch_stats, batch, key)
    return loss, state.replace(batch_stats=batch_stats), grads

  return found


def make_train_step(
  gradient: Callable,
  tx: optax.GradientTransformationExtraArgs,
  schedule: Callable[[jax.Array], jax.Array],
  cooldown_shape: str,
  seed: int,
  prepare: Callable[..., Batch] | None = None,
) -> Callable[..., tuple[TrainState, Metrics]]:
  """Returns the pure step `(state, batch) -> (state, metrics)`; the caller jits and donates.

  Args:
    gradient: see `of_state`; SAM's is in `vit_jax.ascent`.
    tx: takes this step's learning rate as the extra argument `learning_rate`.
    schedule: step -> learning rate of the trunk; the state's cooldown window multiplies it.
    cooldown_shape: "linear" or "1-sqrt".
    seed: dropout is a function of (seed, step).
    prepare: (batch, key, step, *more) -> the batch whose gradient is taken, such as a mixed one;
      `more` is what the step is called with after the batch.

  The metrics are float32 scalars: the mean loss before the update, the global norm of the
  gradient, and the learning rate.
  """

  def train_step(state: TrainState, batch: Batch, *more: Any) -> tuple[TrainState, Metrics]:
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    if prepare is not None:
      batch = prepare(batch, preparation_key(key), state.step, *more)
    lr = schedule(state.step) * schedules.cooldown(
      state.step, state.cooldown_start, state.cooldown_end, cooldown_shape
    )
    params = state.params
    at = schedule_free.point(state.opt_state, params)
    loss, state, grads = gradient(state.replace(params=at), batch, key, lr)
    updates, opt_state = tx.update(grads, state.opt_state, params, learning_rate=lr)
    new = state.replace(
      step=state.step + 1,
      params=optax.apply_updates(params, updates),
      opt_state=opt_state,
    )
    return new, {"loss": loss, "grad_norm": optax.tree.norm(grads), "learning_rate": lr}

  return train_step
