"""Updates within the backward pass: no gradient of the whole model is ever in memory.

The forward pass keeps what enters each layer of a scanned encoder. The backward pass takes the
layers from last to first; each is computed again, its gradient found, and its parameters updated in
place before the next one's turn (Lv et al., 2306.09782, §3.1, did this for plain gradient descent).
A model whose gradient is as large as its parameters then needs a third or more less memory: a
ViT-G/14 trains on TPUv3 cores with data parallelism alone (2106.04560, §3.4).

The update is that of the ordinary step, but for dropout, whose random numbers are others, and for
the clipping: the norm of the whole gradient is known only at the end of the pass, when most
parameters have moved. So each layer's gradient is multiplied by

  min(1, clip_norm / max(norm of the previous step, norm of what this pass has found so far))

The second norm is a lower bound of this step's, and comes close to it at the first layers; what is
not in the encoder is updated at the end, when it is known. So a step whose gradient is suddenly
large is clipped too little in the last layers and in full in the first ones, and the step after it
too much; where the norm changes slowly there is little difference. docs/scale.md has what it does
to a short run.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vit_jax import gathering
from vit_jax.errors import UserError
from vit_jax.models import target
from vit_jax.models.encoder import Encoder
from vit_jax.models.stacking import STACKED
from vit_jax.optim import schedules
from vit_jax.optim.layered import Layered, get, put
from vit_jax.state import TrainState
from vit_jax.step import Batch, Metrics, preparation_key


def check(config: ml_collections.ConfigDict, frozen: bool) -> None:
  """Refuses what needs the gradient of the whole model, or another pass over it.

  Args:
    config: of the run.
    frozen: whether some parameters are not trained.

  Raises:
    UserError: names the key.
  """
  wrong = {
    f"accumulate={config.accumulate}": config.accumulate != 1,
    f"sam.kind='{config.sam.kind}'": config.sam.kind != "none",
    f"adversarial.kind='{config.adversarial.kind}'": config.adversarial.kind != "none",
    f"freeze={tuple(config.freeze)}, or a model with constant tables,": frozen,
    f"model.remat={config.model.remat!r}": config.model.remat != "full",
    f"model.scan={config.model.scan}": config.model.scan is not True,
  }
  for what, is_wrong in wrong.items():
    if is_wrong:
      raise UserError(
        f'config.{what} does not go with updates="within", which takes scanned layers one by one, '
        'each computed again: set model.scan=True, model.remat="full", accumulate=1, and neither '
        "SAM nor adversarial training nor frozen parameters"
      )


def stacked_path(params: Mapping[str, Any]) -> tuple[str, ...]:
  """Returns the path of the one group of parameters that is stacked over the layers of a scan.

  Raises:
    UserError: there is none, or more than one.
  """

  def search(tree: Any, path: tuple[str, ...]) -> list[tuple[str, ...]]:
    if not isinstance(tree, Mapping):
      return []
    here = [(*path, STACKED)] if STACKED in tree else []
    return here + [p for k, v in tree.items() if k != STACKED for p in search(v, (*path, k))]

  found = search(params, ())
  if len(found) != 1:
    raise UserError(
      'config.updates="within" goes through the layers of one scanned encoder, and the model has '
      f"{len(found)}: set config.model.scan=True, or leave updates at its default"
    )
  return found[0]


@contextmanager
def _instead_of_encoder(run: Callable[..., jax.Array]) -> Iterator[None]:
  """Has `run(encoder, tokens, each)` called wherever a model calls its encoder."""

  def intercept(
    call: Callable[..., Any], args: tuple, kwargs: dict, context: nn.module.InterceptorContext
  ) -> Any:
    if isinstance(context.module, Encoder) and context.method_name == "__call__":
      return run(context.module, *args, **kwargs)
    return call(*args, **kwargs)

  with nn.intercept_methods(intercept):
    yield


def _squares(tree: Any) -> jax.Array:
  return sum((jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tree)), jnp.float32(0))


def _layer(shardings: Any) -> Any:
  """Returns the shardings of one layer of stacked parameters."""
  return jax.tree.map(lambda s: NamedSharding(s.mesh, P(*s.spec[1:])), shardings)


def _rounded_late(layer: Any) -> Any:
  """Multiplies by a one that XLA cannot see.

  Where it sees that a loop does nothing with the stack but to round it, it rounds all layers before
  the loop, and that copy would be in memory throughout.
  """
  one = jax.lax.optimization_barrier(jnp.float32(1))
  return jax.tree.map(lambda x: x * one, layer)


def make_train_step(
  loss: Callable,
  tx: Layered,
  schedule: Callable[[jax.Array], jax.Array],
  cooldown_shape: str,
  seed: int,
  prepare: Callable[..., Batch],
  held: Any,
  scattered: Any,
  *,
  narrow: bool = False,
) -> Callable[..., tuple[TrainState, Metrics]]:
  """Returns the pure step `(state, batch) -> (state, metrics)`, as `step.make_train_step` does.

  Args:
    loss: see `step.make_loss`; of a model with one scanned encoder and no running statistics.
    tx: see `optim.layered`.
    schedule: step -> learning rate of the trunk.
    cooldown_shape: "linear" or "1-sqrt".
    seed: dropout is a function of (seed, step), and of the layer.
    prepare: (batch, key, step, *more) -> the batch whose gradient is taken.
    held: tree of shardings of the parameters as the state holds them.
    scattered: tree of shardings of the parameters, those of their gradients and of the update.
    narrow: see `gathering.where_used`.

  The state's `kept` is the norm of the last gradient, float32 [].
  """
  path = tx.path
  block_held, block_scattered = (_layer(get(s, path)) for s in (held, scattered))
  whole_loss = gathering.where_used(loss, put(scattered, path, {}))

  def clip(norm: jax.Array, grads: Any) -> Any:
    if not tx.clip_norm:
      return grads
    scale = jnp.minimum(1.0, tx.clip_norm / jnp.maximum(norm, 1e-30))
    return jax.tree.map(lambda g: g * scale, grads)

  def train_step(state: TrainState, batch: Batch, *more: Any) -> tuple[TrainState, Metrics]:
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    batch = prepare(batch, preparation_key(key), state.step, *more)
    lr = schedule(state.step) * schedules.cooldown(
      state.step, state.cooldown_start, state.cooldown_end, cooldown_shape
    )
    if state.batch_stats:
      raise UserError(
        'config.updates="within" does not go with BatchNorm, whose statistics it drops'
      )
    stack, states = get(state.params, path), state.opt_state["blocks"]
    rest = put(state.params, path, {})
    # One step has one encoder; what calls it is traced for each part, and runs once.
    seen: list[tuple[Encoder, Any]] = []

    def before(rest: Any) -> jax.Array:
      """Returns what enters the encoder."""
      entering = []

      def take(encoder: Encoder, x: jax.Array, each: Any) -> jax.Array:
        entering.append(x)
        seen[:] = [(encoder, each)]
        return x

      with _instead_of_encoder(take):
        whole_loss(rest, {}, batch, key)
      return entering[0]

    def after(rest: Any, x: jax.Array) -> jax.Array:
      """Returns the loss for what leaves the encoder."""
      with _instead_of_encoder(lambda *_: x):
        return whole_loss(rest, {}, batch, key)[0]

    def run(layer: Any, x: jax.Array, index: jax.Array, one: Any) -> jax.Array:
      rngs = {"dropout": jax.random.fold_in(key, index)}

      def apply(params: Any) -> jax.Array:
        with target.loop():
          return block.apply({"params": get(params, path)}, x, one, rngs=rngs)[0]

      layer = _rounded_late(layer) if narrow else layer
      shardings = put({}, path, block_scattered)
      return gathering.where_used(apply, shardings, narrow=narrow)(put({}, path, layer))

    x, pull_before = jax.vjp(before, rest)
    encoder, each = seen[0]
    block = encoder.block(**encoder.fields, parent=None)
    depth = len(jax.tree.leaves(each)[0])
    steps = (jnp.arange(depth), jax.tree.map(jnp.asarray, each))

    def forward(x: jax.Array, step: tuple) -> tuple[jax.Array, jax.Array]:
      index, one = step
      layer = jax.tree.map(lambda a: a[index], stack)
      return run(layer, x, index, one), x

    x, entering = jax.lax.scan(forward, x, steps)
    value, pull_after = jax.vjp(after, rest, x)
    after_grads, dx = pull_after(jnp.ones_like(value))

    def backward(carry: tuple, step: tuple) -> tuple[tuple, None]:
      dx, stack, states, squares = carry
      (index, one), x = step
      layer = jax.tree.map(lambda a: a[index], stack)
      _, pull = jax.vjp(lambda layer, x: run(layer, x, index, one), layer, x)
      grads, dx = pull(dx)
      squares += _squares(grads)
      grads = clip(jnp.maximum(state.kept, jnp.sqrt(known + squares)), grads)
      # Read again: a layer that the gradient and the update share would be held between them.
      again = jax.lax.optimization_barrier(index)
      part, own = jax.tree.map(lambda a: a[again], (stack, states))
      part = jax.lax.with_sharding_constraint(part, block_scattered)
      new, own = tx.update_layer(grads, own, part, rest, lr)
      new = jax.lax.with_sharding_constraint(new, block_held)
      stack, states = jax.tree.map(
        lambda a, b: jax.lax.dynamic_update_index_in_dim(a, b, again, 0),
        (stack, states),
        (new, own),
      )
      return (dx, stack, states, squares), None

    known = _squares(after_grads)
    begin = (dx, stack, states, jnp.float32(0))
    (dx, stack, states, squares), _ = jax.lax.scan(backward, begin, (steps, entering), reverse=True)
    (before_grads,) = pull_before(dx)
    grads = jax.tree.map(jnp.add, after_grads, before_grads)
    norm = jnp.sqrt(squares + _squares(grads))
    clipped = clip(jnp.maximum(state.kept, norm), grads)
    params, rest_state = tx.update_rest(clipped, state.opt_state["rest"], rest, lr)
    new = state.replace(
      step=state.step + 1,
      params=put(params, path, stack),
      opt_state={"rest": rest_state, "blocks": states},
      kept=norm,
    )
    return new, {"loss": value, "grad_norm": norm, "learning_rate": lr}

  return train_step
