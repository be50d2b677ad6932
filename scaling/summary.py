"""What scaling.fit says about a fit, in words and tables."""

from __future__ import annotations

import collections

import numpy as np

from scaling import frontier, words
from scaling.lawform import Array
from scaling.points import Points
from scaling.result import Fit


def groups(points: Points) -> list[str]:
  """Says what the points' models mean for a frontier: several values at a scale, or one model."""
  notes, name = [], points.names["group"]
  seen: dict[tuple[str, float], list[str]] = collections.defaultdict(list)
  for scale, group, place in zip(points.x, points.group, points.place, strict=True):
    seen[str(group), float(scale)].append(place)
  double = [places for places in seen.values() if len(places) > 1]
  if double:
    notes.append(
      f"{len(double)} value{'' if len(double) == 1 else 's'} of {points.names['x']} "
      f"{'occurs' if len(double) == 1 else 'occur'} more than once in a group (first: "
      f"{double[0][0]} and {double[0][1]}): the frontier takes the lowest error of each"
    )
  if name and len(np.unique(points.group)) == 1:
    notes.append(
      f"all points are of one {name} ({points.group[0]}): this is the learning curve of that "
      f"{name}, not a law over sizes"
    )
  return notes


def used(points: Points, kept: Array, variant: str) -> str:
  """Says how many points of how many models were fitted."""
  models = list(dict.fromkeys(points.group[kept].tolist()))
  what = "compute-optimal frontier" if variant != "all" else "all points"
  return (
    f"fitted {len(kept)} of {len(points)} points ({what}), of {len(models)} of "
    f"{len(np.unique(points.group))} models: {', '.join(models[:12])}"
  )


def edges(points: Points, kept: Array, core: Array) -> str:
  """Says that the frontier's ends are the grid's."""
  models, left = points.group[kept], len(kept) - len(core)
  where = "s are" if left > 1 else " is"
  between = len(frontier.interior(kept, points.group, 0))
  few = (
    f", but only {between} points lie between the edges, fewer than the law needs, so that "
    f"{len(core) - between} at an edge had to stay: the truth may lie outside; train sizes in "
    "between"
  )
  return (
    f"{left} frontier point{where} at the grid's edge, where only the smallest "
    f"({models[0]}) or only the largest model ({models[-1]}) was left: their place is the "
    "grid's, not nature's; the intervals cover the answer with and without them"
    f"{few if between < len(core) else ''}"
  )


def ending(points: Points, kept: Array) -> str | None:
  """Warns if the frontier ends with the longest run of the largest model, as grids make it."""
  models = np.unique(points.group)
  last = points.group[kept[-1]]
  mine = points.group == last
  cheapest = {model: points.x[points.group == model].min() for model in models}
  if len(models) < 2 or cheapest[last] < max(cheapest.values()):
    return None
  if points.x[kept[-1]] < points.x[mine].max():
    return None
  return (
    f"the frontier ends with the longest run of the largest model ({last}): a larger model "
    "might already be better there, so the law's end is the grid's"
  )


def text(
  fit: Fit, truth: dict[str, float] | None = None, forecast: dict[str, object] | None = None
) -> str:
  """Returns what the command prints: data, parameters, findings, forecast.

  Args:
    fit: the fitted law.
    truth: known parameters by name.
    forecast: as in law.json.
  """
  names_ = fit.points.names
  lines = [f"{names_['y']} against {names_['x']}"]
  lines += [f"  {note}" for note in fit.notes]
  lines += ["", fit.law.formula, f"  {'':4}{'estimate':>12}  95% interval"]
  known = fit.scatter.degrees > 0
  for name, estimate in fit.estimates.items():
    interval = words.span(*estimate.interval) if known else "not available"
    lines.append(f"  {name:4}{words.figure(estimate.value, 4):>12}  {interval}")
  lines += [f"  {sentence}" for sentence in fit.findings()]
  if known:
    lines.append(f"  scatter about the law {_scatter(fit)}")
  if fit.left_out_error is not None:
    lines.append(
      f"  largest {fit.left_out} of {len(fit.frontier)} frontier points left out: "
      f"predicted with an RMS error of {100 * fit.left_out_error:.2g}%"
    )
  for name, value in (truth or {}).items():
    low, high = fit.estimates[name].interval
    inside = "inside" if low <= value <= high else "OUTSIDE"
    lines.append(
      f"  known {name} = {words.figure(value)}: fitted "
      f"{words.figure(fit.estimates[name].value)}, truth {inside} the 95% interval"
    )
  if forecast is None:
    return "\n".join(lines)
  low, high = (np.inf if end is None else end for end in forecast["measurement_interval"])
  lines += [
    "",
    f"forecast at {names_['x']} = {words.figure(forecast['x'])} "
    f"({forecast['times_beyond_data']:.2g} times the largest measured): "
    f"{names_['y']} {words.figure(forecast['y'])}"
    + (f", 95% of measurements in {words.span(low, high)}" if known else ""),
  ]
  if forecast["times_beyond_data"] > 10:
    lines.append("  WARNING: more than 10 times beyond the data; laws have bent within less")
  return "\n".join(lines)


def _scatter(fit: Fit) -> str:
  size = fit.scatter.variance**0.5
  return {
    "log": f"{100 * size:.2g}% of the error",
    "linear": f"{words.figure(size, 2)} in the error",
    "binomial": f"as of counting errors on {words.figure(size**-2 if size else np.inf)} images",
  }[fit.loss.residual]
