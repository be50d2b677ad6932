"""Learning-rate schedules and the cooldown that ends a run.

A schedule is a function of the step alone, which may be traced; it keeps no state. A cooldown is a
separate factor of (step, start, end), where start and end may be traced: a trunk and all of its
branches then share one compiled step.
"""

from vit_jax.optim.schedules.cooldowns import COOLDOWNS, NEVER, check_cooldown, cooldown
from vit_jax.optim.schedules.factory import (
  ADDED,
  DEFAULTS,
  Schedule,
  check_trunk,
  is_horizon_free,
  make,
  names,
)

__all__ = [
  "ADDED",
  "COOLDOWNS",
  "DEFAULTS",
  "NEVER",
  "Schedule",
  "check_cooldown",
  "check_trunk",
  "cooldown",
  "is_horizon_free",
  "make",
  "names",
]
