"""Schedules that only ever fall: rsqrt, constant, steps, linear and cosine.

Each function takes the options (`factory.DEFAULTS`, resolved) and the length of the decay in steps
(None for schedules that do not look at it), and returns the share of the peak as a function of the
steps since the decay began: int32 array >= 0 -> float32 array of the same shape.

Source: Zhai et al., "Scaling Vision Transformers" (2106.04560), §3.5 (rsqrt).
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.errors import UserError
from vit_jax.optim import options
from vit_jax.optim.schedules.cooldowns import half_cosine

Shape = Callable[[jax.Array], jax.Array]


def constant(o: Mapping[str, Any], length: int | None) -> Shape:
  """1."""
  del o, length
  return lambda since: jnp.ones(since.shape, jnp.float32)


def rsqrt(o: Mapping[str, Any], length: int | None) -> Shape:
  """1 / sqrt(1 + (s + shift) / timescale)."""
  del length
  options.check_range("shift", o["shift"], 0, integer=True)
  options.check_range("timescale", o["timescale"], 1)

  def shape(since: jax.Array) -> jax.Array:
    return jax.lax.rsqrt(1 + (since.astype(jnp.float32) + o["shift"]) / o["timescale"])

  return shape


def step(o: Mapping[str, Any], length: int | None) -> Shape:
  """`factor` to the power of the number of `boundaries` that lie behind."""
  del length
  boundaries = tuple(o["boundaries"])
  warmup = o["warmup"]
  if not boundaries:
    raise UserError(
      "schedule 'step' needs boundaries: the steps from which on the rate is multiplied by factor"
    )
  for boundary in boundaries:
    options.check_range("boundaries", boundary, max(warmup, 1), 2**31 - 1, integer=True)
  if list(boundaries) != sorted(set(boundaries)):
    raise UserError(f"boundaries={boundaries} must rise from one to the next")
  options.check_range("factor", o["factor"], 0.0, 1.0)
  # A table of powers: multiplied up in float64, so that the last is as exact as the first.
  values = np.array([float(o["factor"]) ** i for i in range(len(boundaries) + 1)], np.float32)
  starts = np.array([b - warmup for b in boundaries], np.int32)
  return lambda since: jnp.asarray(values)[jnp.searchsorted(starts, since, side="right")]


def _falling(o: Mapping[str, Any], length: int, curve: Callable[[jax.Array], jax.Array]) -> Shape:
  def shape(since: jax.Array) -> jax.Array:
    # Measured from the end, where the rate is small, for the relative precision there.
    left = jnp.clip(length - since, 0).astype(jnp.float32) / length
    return o["end"] + (1 - o["end"]) * curve(left)

  return shape


def linear(o: Mapping[str, Any], length: int) -> Shape:
  """From 1 to `end`, linear in the step."""
  return _falling(o, length, lambda left: left)


def cosine(o: Mapping[str, Any], length: int) -> Shape:
  """From 1 to `end`, half a cosine."""
  return _falling(o, length, half_cosine)
