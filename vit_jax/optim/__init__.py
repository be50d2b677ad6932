"""Optimisers, learning-rate schedules and weight decay, composed from optax."""

from vit_jax.optim import schedules
from vit_jax.optim.factory import DEFAULTS, make, names

__all__ = ["DEFAULTS", "make", "names", "schedules"]
