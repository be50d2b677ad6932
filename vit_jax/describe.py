"""What a run is, in the words that stand before its first step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax

from vit_jax import state as state_lib
from vit_jax.optim import frozen
from vit_jax.progress import gib, si

if TYPE_CHECKING:
  from vit_jax.job import Job


def _trained_share(job: Job) -> str:
  trained = frozen.hide(job.frozen, job.target.params)
  count = sum(x.size for x in jax.tree.leaves(trained))
  return "" if count == job.num_params else f" ({si(count)} of them trained)"


def describe(job: Job) -> str:
  """Returns model, data, devices, batch and the memory of the state, in a few lines."""
  config, mesh = job.config, job.mesh
  total = state_lib.num_bytes(job.target)
  own = state_lib.num_bytes(
    jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.sharding.shard_shape(x.shape), x.dtype), job.target
    )
  )
  sharded = "fsdp" if config.mesh.zero1 == 1 else "zero1"
  return (
    f"{job.name}: {job.model_name} on {job.source.info.name} at {config.data.image_size} px: "
    f"{si(job.num_params)} parameters{_trained_share(job)}, "
    f"{si(job.flops_per_image, 'FLOPs')} per image (forward)\n"
    f"  {mesh.size} x {jax.devices()[0].device_kind} "
    f"(data {mesh.shape['data']}, {sharded} {mesh.shape['fsdp']}), batch "
    f"{config.batch_size} ({config.batch_size // mesh.size} per device, "
    f"{config.accumulate} micro-batch(es)); state: {gib(total)} in all, "
    f"{gib(own)} per device"
    + (f"; images: {gib(job.resident.num_bytes)} per device" if job.resident else "")
    + "".join(f"\n  note: {note}" for note in job.fingerprint.notes)
  )
