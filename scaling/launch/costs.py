"""What a run costs before it is trained: FLOPs and checkpoint bytes, from shapes alone."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import ml_collections

from scaling.launch.grid import Run
from vit_jax import ahead
from vit_jax import config as config_lib
from vit_jax import state as state_lib
from vit_jax.checkpoint import KEEP_LATEST
from vit_jax.data import sources
from vit_jax.errors import UserError
from vit_jax.progress import track

# Stands for those of a data set that is not on this machine.
NUM_CLASSES = 1_000

# Keys that neither FLOPs nor bytes depend on: runs that differ in these alone are built once.
_FREE = ("seed", "optimizer.learning_rate", "init_from")


@dataclasses.dataclass(frozen=True)
class Cost:
  """What one step and one checkpoint of a run cost.

  Attributes:
    model: the model's name, with what the config changes of its shape.
    parameters: scalars.
    flops_per_image: of a forward pass.
    flops_per_step: of training, as `vit_jax.measurements` counts them.
    state_bytes: of a checkpoint, before it is compressed.
    dtype: of the matrix products.
    data_known: whether the number of classes is that of the data; else `NUM_CLASSES`.
  """

  model: str
  parameters: int
  flops_per_image: int
  flops_per_step: float
  state_bytes: int
  dtype: str
  data_known: bool


def of_runs(runs: Iterable[Run]) -> list[Cost]:
  """Returns the costs of runs; nothing is compiled, and no weights are read.

  Raises:
    UserError: a config that cannot be trained.
  """
  runs, known = list(runs), {}
  costs = []
  for run in track(runs, "sizes", len(runs)):
    key = _key(run.config)
    if key not in known:
      known[key] = _of_config(run.config)
    costs.append(known[key])
  return costs


def _key(config: ml_collections.ConfigDict) -> str:
  flat = dict(config_lib.flatten(config_lib.to_json(config)))
  shape = {k: v for k, v in flat.items() if not any(k == f or k.startswith(f"{f}.") for f in _FREE)}
  return json.dumps(shape, sort_keys=True)


def _of_config(config: ml_collections.ConfigDict) -> Cost:
  try:
    source = sources.load(config.data.name, config.data.split, config.data.dir)
    num_classes = source.info.num_classes
  except UserError:
    num_classes = None
  config = config.copy_and_resolve_references().unlock()
  config.mesh = config_lib.default().mesh  # there is one device here
  job = ahead.build(config.lock(), jax.devices()[:1], num_classes or NUM_CLASSES)
  return Cost(
    model=job.model_name,
    parameters=job.num_params,
    flops_per_image=job.flops_per_image,
    flops_per_step=job.forward_passes * job.flops_per_image * config.batch_size,
    state_bytes=state_lib.num_bytes(job.target),
    dtype=jnp.dtype(job.model.dtype).name,
    data_known=num_classes is not None,
  )


def checkpoints_kept(run: Run) -> int:
  """Returns how many checkpoints a trunk and its branches leave when all are done."""
  plan, every = run.plan, run.config.checkpoint_every
  kept = _kept(0, plan.trunk_steps, every, plan.fork_steps)
  return kept + sum(_kept(w.start, w.end, every, ()) for w in plan.branches.values())


def _kept(start: int, stop: int, every: int, forks: Iterable[int]) -> int:
  """Returns how many checkpoints a segment of training leaves, from after `start` to `stop`."""
  forks = {f for f in forks if f > 0}
  before = (stop - 1) // every * every  # the last one of those that are saved every so often
  latest = sorted({s for s in (before, before - every, stop, *forks) if s > start})[-KEEP_LATEST:]
  return len(forks | set(latest))
