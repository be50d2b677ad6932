"""Schedules one step at a time, in Python floats, from their definitions."""

import math


def cycle_of(since, period, factor):
  """The number of the cycle, the steps done in it and its length; cycle by cycle."""
  number, length = 0, float(period)
  while since >= length:
    since, length, number = since - length, length * factor, number + 1
  return number, since, length


def decayed(name, since, length, o):
  """Share of the peak, `since` steps after the decay began."""
  end = o.get("end", 0.0)
  if name == "rsqrt":
    return (o["timescale"] / (o["timescale"] + since + o.get("shift", 0))) ** 0.5
  if name == "constant":
    return 1.0
  if name == "step":
    return o["factor"] ** sum(since >= b - o.get("warmup", 0) for b in o["boundaries"])
  if name == "cosine_restarts":
    number, gone, of = cycle_of(since, o["period"], o.get("period_factor", 1.0))
    if o.get("cycles") and number >= o["cycles"]:
      return end
    top = max(end, o.get("cycle_decay", 1.0) ** number)
    return end + (top - end) * (1 + math.cos(math.pi * gone / of)) / 2
  if name == "envelopes":
    return enveloped(min(since, length), length, o)
  progress = min(1.0, since / length)
  fall = progress if name == "linear" else (1 - math.cos(math.pi * progress)) / 2
  return 1 + fall * (end - 1)


def enveloped(x, n, o):
  """The formula of the article, with f and g in shares of the peak and x from 0 to n."""
  folds, high, low = o.get("folds", 7), o.get("upper_end", 0.1), o.get("lower_start", 0.1)
  f = 1 + (high - 1) * x / n if o.get("upper", "linear") == "linear" else high ** (x / n)
  g = low * (o["end"] / low) ** (x / n)
  k = math.ceil(0.625 * folds - 0.25)
  a = 1 / ((2 * k + 1) * math.pi) - 1 / (2.5 * math.pi * folds)
  b = n / (2.5 * math.pi * folds)
  return 0.5 * (f - g) * math.cos(x / (a * x + b)) + 0.5 * (f + g)


def rate(name, step, *, learning_rate=1.0, total_steps=None, **o):
  """The learning rate at a step; options as for `schedules.make`."""
  warmup, every, prefix = o.get("warmup", 0), o.get("every", 1), o.get("warmup_prefix", True)
  step -= step % every
  length = None if total_steps is None else total_steps - o.get("hold", 0) - warmup * prefix
  if step >= warmup:
    return learning_rate * decayed(name, step - warmup * prefix, length, o)
  top = decayed(name, 0, length, o) if prefix else 1.0
  if o.get("warmup_shape") == "harmonic":
    return learning_rate * top / max(1.0, (warmup - step) / every)
  start = o.get("warmup_start", 0.0)
  return learning_rate * (start + (top - start) * step / warmup)
