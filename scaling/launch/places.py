"""The places on this machine where a job can run, each with its accelerators and its cores."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

from vit_jax import parallel
from vit_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Place:
  """What one job has for itself.

  Attributes:
    cores: CPU cores, None for all.
    environment: variables to set for its process.
  """

  cores: frozenset[int] | None
  environment: dict[str, str]


def find(jobs: int | None) -> list[Place]:
  """Divides this machine's GPUs and CPU cores among so many jobs.

  Without a number: one job for each GPU, or else one. JAX is not asked, for it would take hold of
  the devices.

  Raises:
    UserError: the number is below 1, or several jobs would have to share a TPU.
  """
  gpus = _gpus()
  if jobs is None:
    jobs = max(1, len(gpus))
  if jobs < 1:
    raise UserError(f"--jobs {jobs}: at least 1")
  if jobs > 1 and parallel.has_tpu():
    raise UserError(f"--jobs {jobs}: the TPU of a host belongs to one process; leave --jobs out")
  if jobs == 1:
    return [Place(None, {})]
  cores = _shares(_cores(), jobs)
  environments: list[dict[str, str]] = [{} for _ in range(jobs)]
  if gpus:
    sharers = -(-jobs // len(gpus))
    for environment, share in zip(environments, _shares(gpus, jobs), strict=True):
      environment["CUDA_VISIBLE_DEVICES"] = ",".join(share)
      if sharers > 1:
        environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 / sharers:.3f}"
  return [
    Place(frozenset(share) or None, environment)
    for share, environment in zip(cores, environments, strict=True)
  ]


def _shares(items: Sequence, parts: int) -> list[Sequence]:
  """Cuts items into even parts, one item each time where there are too few."""
  if len(items) < parts:
    return [items[i % len(items) :][:1] if items else [] for i in range(parts)]
  return [items[len(items) * i // parts : len(items) * (i + 1) // parts] for i in range(parts)]


def _cores() -> list[int]:
  return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def _gpus() -> list[str]:
  plugins = ("jax_cuda12_plugin", "jax_cuda13_plugin")
  chosen = os.environ.get("JAX_PLATFORMS", "")
  wanted = not chosen or {"cuda", "gpu"} & set(chosen.split(","))
  if not wanted or not any(map(importlib.util.find_spec, plugins)):
    return []
  visible = os.environ.get("CUDA_VISIBLE_DEVICES")
  if visible is not None:
    return [name for name in visible.split(",") if name]
  # CUDA counts those that are here from 0, even if a container has but /dev/nvidia2 of its host.
  return [str(i) for i, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]
