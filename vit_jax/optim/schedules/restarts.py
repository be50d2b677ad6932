"""Schedules that rise again: cosine restarts, and a cosine between two envelopes.

See decays.py for what the functions take and return.

Source: Loshchilov & Hutter, "SGDR" (1608.03983; `torch.optim.lr_scheduler
.CosineAnnealingWarmRestarts` and timm's `CosineLRScheduler` are its descendants); the two
envelopes are a variant for Compact Transformers, "Maevit", whose periods grow.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.errors import UserError, unknown
from vit_jax.optim import options
from vit_jax.optim.schedules.cooldowns import half_cosine
from vit_jax.optim.schedules.decays import Shape

_ENVELOPES = ("linear", "exponential")
_LAST = 2**31 - 1


def cosine_restarts(o: Mapping[str, Any], length: int | None) -> Shape:
  """Cycles of half a cosine, cycle i from `cycle_decay`**i down to `end`, then `end` for good.

  Cycle i is `period` * `period_factor`**i steps long, which need not be whole. A cycle that would
  begin below `end` stays at `end`.
  """
  del length
  if o["period"] == 0:
    raise UserError("schedule 'cosine_restarts' needs period: the steps of its first cycle")
  options.check_range("period", o["period"], 1, integer=True)
  options.check_range("period_factor", o["period_factor"], 1.0)
  options.check_range("cycles", o["cycles"], 0, integer=True)
  options.check_range("cycle_decay", o["cycle_decay"], 0.0, 1.0)
  end, decay, period = o["end"], float(o["cycle_decay"]), o["period"]
  cycles = o["cycles"] or _LAST
  if o["period_factor"] == 1:

    def phase(since: jax.Array) -> tuple[jax.Array, jax.Array]:
      cycle = since // period
      return cycle, (period - since % period).astype(jnp.float32) / period

  else:
    lengths, starts = _growing(period, float(o["period_factor"]), cycles)
    whole = np.ceil(starts)  # the first step of each cycle
    firsts, aheads = whole.astype(np.int32), (whole - starts).astype(np.float32)
    lengths = lengths.astype(np.float32)

    def phase(since: jax.Array) -> tuple[jax.Array, jax.Array]:
      cycle = jnp.searchsorted(firsts, since, side="right") - 1
      first, ahead, steps = (jnp.asarray(x)[cycle] for x in (firsts, aheads, lengths))
      return cycle, (steps - ahead - (since - first).astype(jnp.float32)) / steps

  def shape(since: jax.Array) -> jax.Array:
    cycle, left = phase(since)
    top = jnp.maximum(jnp.float32(decay) ** cycle, end)
    return jnp.where(cycle < cycles, end + (top - end) * half_cosine(left), end)

  return shape


def _growing(period: int, factor: float, cycles: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns lengths and starts, in steps, of all cycles that begin at a step that int32 holds.

  After the last of `cycles` comes one more entry, of the steps after the end.
  """
  lengths, starts = [float(period)], [0.0]
  while len(starts) <= cycles and starts[-1] + lengths[-1] < _LAST:
    starts.append(starts[-1] + lengths[-1])
    lengths.append(lengths[-1] * factor)
  return np.array(lengths), np.array(starts)


def envelopes(o: Mapping[str, Any], length: int) -> Shape:
  """A cosine between two falling envelopes, of ever longer periods, that ends at `end`.

  With x = s / length, the upper envelope f goes from 1 to `upper_end`, linear or exponential in x,
  the lower one g exponentially from `lower_start` to `end`, and the share of the peak is

    (f + g) / 2 + (f - g) / 2 * cos(pi h(x)),   h(x) = x / (A x + 1 / (2.5 folds))

  with A such that h(1) = 2 k + 1 for k = ceil(0.625 folds - 0.25): k maxima after the first.
  """
  options.check_range("folds", o["folds"], 1, integer=True)
  options.check_range("upper_end", o["upper_end"], 0.0, 1.0)
  options.check_range("lower_start", o["lower_start"], 0.0, 1.0)
  if o["upper"] not in _ENVELOPES:
    raise unknown("upper envelope", o["upper"], _ENVELOPES)
  end, top, low = (float(o[key]) for key in ("end", "upper_end", "lower_start"))
  if not 0 < end <= min(top, low):
    raise UserError(
      f"schedule 'envelopes': end={end:g} must be above 0, for the lower envelope falls "
      f"exponentially, and at most upper_end={top:g} and lower_start={low:g}"
    )
  turns = 2 * math.ceil(0.625 * o["folds"] - 0.25) + 1
  begin = 1 / (2.5 * o["folds"])
  slope = 1 / turns - begin

  def shape(since: jax.Array) -> jax.Array:
    left = jnp.clip(length - since, 0)
    gone = (length - left).astype(jnp.float32) / length
    left = left.astype(jnp.float32) / length
    upper = top + (1 - top) * left if o["upper"] == "linear" else jnp.exp(math.log(top) * gone)
    lower = end * jnp.exp(math.log(low / end) * left)
    # Counted from the nearer of both ends, and without whole turns, for precision: `turns` is odd,
    # so that the cosine from the end is the negative of that from the start.
    here = gone / (slope * gone + begin)
    ahead = left * turns * begin / (1 / turns - slope * left)
    near = jnp.where(here < ahead, here, ahead)
    near = near - 2 * jnp.round(near / 2)
    # cos(pi h) = 1 - 2 sin(pi h / 2)**2, exact at both ends.
    share = jnp.square(jnp.sin(jnp.pi / 2 * near))
    share = jnp.where(here < ahead, 1 - share, share)
    return lower + (upper - lower) * share

  return shape
