"""Averages of the parameters over the steps, evaluated beside the parameters themselves.

They follow training and do not change it. They are a part of the state, so that a resumed run and
a branch go on with them bit for bit; the trunk's go on into each of its branches.

  ema   a_n = a_{n-1} + r_n (p_n - a_{n-1}), p_n being the parameters after step n, with r_1 = 1
        (the initial ones have no part) and r_n = 1 - decay; with the warm-up that TensorFlow made
        usual r_n = max(1 - decay, 9 / (n + 9)), so that the average of a short run does not
        remember its beginning. As many bytes as the parameters.
  lawa  the mean of the last k snapshots, one every so many steps (latest weight averaging,
        2209.14981); of those that there are before there are k, and before the first the parameters
        themselves. k times the bytes of the parameters.

BatchNorm's running statistics are averaged just like the parameters, as timm does. They are not
exactly those of the averaged network: those would take another pass over training images.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax.errors import UserError
from vit_jax.optim import options
from vit_jax.state import TrainState

# The config's groups `ema` and `lawa`, and their values at which they do nothing.
DEFAULTS: dict[str, dict[str, Any]] = {
  "ema": {
    "decay": 0.0,  # a step, 0.9999 say; 0 is off
    "warmup": True,  # a shorter memory at first
  },
  "lawa": {
    "snapshots": 0,  # how many are averaged; 0 is off
    "every": 0,  # steps from one to the next
  },
}


@dataclasses.dataclass(frozen=True)
class Averages:
  """What is averaged, and how; false when nothing is.

  Attributes:
    decay: of the ema a step; 0 is none.
    warmup: whether its memory is shorter at first.
    snapshots: of lawa; 0 is none.
    every: steps from one to the next.
  """

  decay: float
  warmup: bool
  snapshots: int
  every: int

  def __bool__(self) -> bool:
    """Whether there is any average."""
    return bool(self.decay or self.snapshots)

  def begin(self, state: TrainState) -> TrainState:
    """Returns a state at step 0 with room for the averages."""
    if not self:
      return state
    averages, now = {}, _averaged(state)
    if self.decay:
      averages["ema"] = jax.tree.map(jnp.zeros_like, now)
    if self.snapshots:
      averages["lawa"] = jax.tree.map(lambda x: jnp.zeros((self.snapshots, *x.shape), x.dtype), now)
    return state.replace(averages=averages)

  def follow(self, train_step: Callable[..., tuple[TrainState, Any]]) -> Callable[..., tuple]:
    """Returns a pure training step that updates the averages as well."""
    if not self:
      return train_step

    def step(state: TrainState, *args: Any) -> tuple[TrainState, Any]:
      state, metrics = train_step(state, *args)
      return state.replace(averages=self._update(state)), metrics

    return step

  def _update(self, state: TrainState) -> dict[str, Any]:
    averages, now = dict(state.averages), _averaged(state)
    if self.decay:
      count = state.step.astype(jnp.float32)
      rate = jnp.where(state.step == 1, 1.0, 1 - self.decay)
      if self.warmup:
        rate = jnp.where(state.step == 1, 1.0, jnp.maximum(1 - self.decay, 9 / (count + 9)))
      averages["ema"] = jax.tree.map(lambda a, p: a + rate * (p - a), averages["ema"], now)
    if self.snapshots:
      due, slot = state.step % self.every == 0, state.step // self.every % self.snapshots

      def put(ring: jax.Array, p: jax.Array) -> jax.Array:
        # One slot is read and written in place, whether a snapshot is due or not.
        return ring.at[slot].set(jnp.where(due, p, ring[slot]))

      averages["lawa"] = jax.tree.map(put, averages["lawa"], now)
    return averages

  @cached_property
  def _lawa(self) -> Callable[[TrainState], Any]:
    """Returns the jitted mean of the snapshots."""

    def mean(state: TrainState) -> Any:
      count = jnp.minimum(state.step // self.every, self.snapshots)

      def one(ring: jax.Array, p: jax.Array) -> jax.Array:
        # Slots that are still empty are zeros.
        return jnp.where(count == 0, p, ring.sum(0) / jnp.maximum(count, 1))

      return jax.tree.map(one, state.averages["lawa"], _averaged(state))

    return jax.jit(mean)

  def views(self, state: TrainState) -> dict[str, TrainState]:
    """Returns the state with each average in the place of its parameters and statistics."""
    out = {}
    if self.decay:
      out["ema"] = state.averages["ema"] if int(state.step) else _averaged(state)
    if self.snapshots:
      out["lawa"] = self._lawa(state)
    return {name: state.replace(**tree) for name, tree in out.items()}


def _averaged(state: TrainState) -> dict[str, Any]:
  return {"params": state.params, "batch_stats": state.batch_stats}


def make(ema: Mapping[str, Any], lawa: Mapping[str, Any]) -> Averages:
  """Returns the averages of a config's groups.

  Raises:
    UserError: a value out of range, or snapshots without the steps between them.
  """
  options.check_range("config.ema.decay", ema["decay"], 0.0, 1.0, open_high=True)
  options.check_range("config.lawa.snapshots", lawa["snapshots"], 0, integer=True)
  options.check_range("config.lawa.every", lawa["every"], 0, integer=True)
  if not ema["decay"] and not ema["warmup"]:
    raise UserError("config.ema.warmup=False has no effect without config.ema.decay: set both")
  if bool(lawa["snapshots"]) != bool(lawa["every"]):
    raise UserError(
      f"config.lawa: snapshots={lawa['snapshots']} and every={lawa['every']} go together: "
      "how many are averaged, and the steps from one to the next"
    )
  return Averages(ema["decay"], ema["warmup"], lawa["snapshots"], lawa["every"])
