"""What training changes: parameters, statistics, optimiser state, and how far it has come."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from vit_jax import parallel
from vit_jax.branches import Window
from vit_jax.optim.schedules import NEVER


class TrainState(struct.PyTreeNode):
  """The whole state of a run; together with the config it determines everything that follows.

  The cooldown's window is data, not code: the trunk and all its branches share one compiled step.
  """

  step: jax.Array  # int32 [], steps done; also the position in the data
  params: Any  # float32
  batch_stats: Any  # float32, {} for models without running statistics
  opt_state: Any
  cooldown_start: jax.Array  # int32 []
  cooldown_end: jax.Array  # int32 []
  averages: Any = None  # float32, see averages.py; None where nothing is averaged
  kept: Any = None  # float32, what a gradient keeps for later steps (LookSAM); None: nothing

  def with_window(self, window: Window) -> "TrainState":
    """Returns the state with the learning rate's decay between two steps."""

    def like(old: jax.Array, value: int) -> jax.Array:
      return jax.device_put(jnp.int32(value), old.sharding)

    return self.replace(
      cooldown_start=like(self.cooldown_start, window.start),
      cooldown_end=like(self.cooldown_end, window.end),
    )

  @property
  def variables(self) -> dict[str, Any]:
    """Returns what `model.apply` takes in evaluation."""
    return as_variables(self.params, self.batch_stats)


def as_variables(params: Any, batch_stats: Any) -> dict[str, Any]:
  """Returns Linen's variables; models without running statistics have no such collection."""
  return {"params": params, "batch_stats": batch_stats} if batch_stats else {"params": params}


def init_variables(
  model: nn.Module, key: jax.Array, image_size: int, channels: int
) -> dict[str, Any]:
  """Initialises a model on images of `image_size` pixels."""
  images = jnp.zeros((1, image_size, image_size, channels), jnp.float32)
  return model.init({"params": key}, images, train=False)


def init_fn(
  model: nn.Module,
  tx: optax.GradientTransformation,
  image_size: int,
  channels: int,
  keep: Callable[[Any], Any] = lambda params: None,
) -> Callable[[jax.Array], TrainState]:
  """Returns `f(key) -> TrainState` at step 0, to be jitted or shape-evaluated.

  Args:
    model: initialised by its key.
    tx: the optimiser.
    image_size: in pixels.
    channels: of an image.
    keep: parameters -> the state's `kept` at step 0.
  """

  def init(key: jax.Array) -> TrainState:
    variables = init_variables(model, key, image_size, channels)
    params = variables["params"]
    return TrainState(
      step=jnp.int32(0),
      params=params,
      batch_stats=variables.get("batch_stats", {}),
      opt_state=tx.init(params),
      cooldown_start=jnp.int32(NEVER),
      cooldown_end=jnp.int32(NEVER),
      kept=keep(params),
    )

  return init


def abstract(
  init: Callable[[jax.Array], TrainState], seed: int, mesh: Mesh, zero1: bool = False
) -> TrainState:
  """Returns the state's shapes, dtypes and shardings without computing it.

  Args:
    init: see `init_fn`.
    seed: of the parameters.
    mesh: the devices.
    zero1: every device has all parameters, and a part of what only their update needs.
  """
  shapes = jax.eval_shape(init, jax.random.key(seed))
  shardings = parallel.state_shardings(mesh, shapes)
  if zero1:
    whole = jax.tree.map(lambda _: parallel.replicated(mesh), shapes.variables)
    shardings = shardings.replace(**whole)
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
  )


def create(init: Callable[[jax.Array], TrainState], seed: int, target: TrainState) -> TrainState:
  """Initialises a state from the seed, sharded as `target` (see `abstract`) says."""
  shardings = jax.tree.map(lambda x: x.sharding, target)
  return jax.jit(init, out_shardings=shardings)(jax.random.key(seed))


def num_params(state: TrainState) -> int:
  """Returns the number of scalars in the parameters."""
  return sum(x.size for x in jax.tree.leaves(state.params))


def num_bytes(tree: Any) -> int:
  """Returns the bytes of all arrays of a tree, over all devices together."""
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
