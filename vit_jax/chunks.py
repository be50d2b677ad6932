"""Many training steps in one call of the devices, for data that is there already.

One program serves any number of steps: so chunks may end wherever something is due, nothing is
compiled anew, and how a run is cut into chunks changes no bit of it.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vit_jax import parallel
from vit_jax.state import TrainState

# Of a chunk: long beside what a call costs, short beside the time in which a signal must be
# answered.
SECONDS = 2.0

# Steps of a chunk: so many have their indices and metrics on the devices at once.
MOST = 1024


def to_next(step: int, at: Iterable[int], every: Iterable[int]) -> int:
  """Returns the number of steps until the next one at which something is due.

  Args:
    step: steps done.
    at: steps; those that have passed do not count.
    every: something is due at all multiples of these; 0 is never.
  """
  return min([s - step for s in at if s > step] + [e - step % e for e in every if e])


def length(seconds_per_step: float, most: int) -> int:
  """Returns how many steps a chunk may have, at least one; the same for all processes."""
  return parallel.of_first(int(np.clip(SECONDS / seconds_per_step, 1, most))) if most > 1 else 1


def feed(index: np.ndarray, most: int, mesh: Mesh) -> dict[str, jax.Array]:
  """Returns what `repeat` takes, on the devices.

  Args:
    index: of the examples, int32 [steps, batch_size].
    most: steps that a chunk may have.
    mesh: over which each batch is split.
  """
  padded = np.zeros((most, index.shape[1]), np.int32)
  padded[: len(index)] = index
  return {
    "index": parallel.put(padded, NamedSharding(mesh, P(None, ("data", "fsdp")))),
    "count": parallel.put(np.array(len(index), np.int32), parallel.replicated(mesh)),
  }


def repeat(train_step: Callable[..., tuple[TrainState, Any]], most: int) -> Callable[..., tuple]:
  """Returns the pure function `(state, batch of feed, *more) -> (state, metrics)` of many steps.

  Args:
    train_step: `(state, {"index": int32 [B]}, *more) -> (state, scalar metrics)`.
    most: steps that a chunk may have. Metrics are [most], zero for those that it does not have.
  """

  def chunk(state: TrainState, batch: dict[str, jax.Array], *more: Any) -> tuple[TrainState, Any]:
    def one(state: TrainState, index: jax.Array) -> tuple[TrainState, Any]:
      return train_step(state, {"index": index}, *more)

    def body(i: jax.Array, carry: tuple[TrainState, Any]) -> tuple[TrainState, Any]:
      state, record = carry
      state, metrics = one(state, batch["index"][i])
      return state, jax.tree.map(lambda all_, new: all_.at[i].set(new), record, metrics)

    shapes = jax.eval_shape(one, state, batch["index"][0])[1]
    record = jax.tree.map(lambda x: jnp.zeros((most, *x.shape), x.dtype), shapes)
    return jax.lax.fori_loop(0, batch["count"], body, (state, record))

  return chunk
