"""Optimisers, learning-rate schedules, weight decay and freezing, composed from optax."""

from vit_jax.optim import frozen, layered, sam, schedule_free, schedules
from vit_jax.optim.factory import ADDED, DEFAULTS, make, names
from vit_jax.optim.frozen import BACKBONE

__all__ = [
  "ADDED",
  "BACKBONE",
  "DEFAULTS",
  "frozen",
  "layered",
  "make",
  "names",
  "sam",
  "schedule_free",
  "schedules",
]
