"""Optimisers, learning-rate schedules, weight decay and freezing, composed from optax."""

from vit_jax.optim import frozen, sam, schedules
from vit_jax.optim.factory import DEFAULTS, make, names
from vit_jax.optim.frozen import BACKBONE

__all__ = ["BACKBONE", "DEFAULTS", "frozen", "make", "names", "sam", "schedules"]
