"""How fast a device trains, in FLOP/s: as measured in earlier runs, or else estimated."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scaling.launch.costs import Cost
from scaling.planner import speed
from vit_jax import devices, measurements
from vit_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Rate:
  """FLOP/s of one device, and where they are from."""

  flops: float
  source: str


@dataclasses.dataclass(frozen=True)
class _Seen:
  """A measurement: the model, its forward FLOPs, and its FLOP/s per device."""

  model: str
  flops_per_image: float
  rate: float


class Rates:
  """The speed of one kind of device."""

  def __init__(self, workdir: Path, device: str | None = None, mfu: float | None = None) -> None:
    """Reads what has been measured below a directory.

    Args:
      workdir: of the sweep.
      device: a name of `vit_jax.devices` or a `device_kind` of JAX; None: that of most
        measurements below `workdir`.
      mfu: utilisation to reckon with, instead of what is measured or published.

    Raises:
      UserError: the device is not known, and no measurement is of it.
    """
    if mfu is not None and not 0 < mfu <= 1:
      raise UserError(f"--mfu {mfu:g}: a share, above 0 and at most 1")
    seen = _read(workdir)
    if device is None and seen:
      device = max(seen, key=lambda kind: len(seen[kind]))
    self.device = device
    self._mfu = mfu
    self._known = None if device is None else devices.find(device)
    self._seen = [s for kind, s in seen.items() if self._is_same(kind)]
    self._seen = [record for records in self._seen for record in records]
    if device is not None and self._known is None and (mfu is not None or not self._seen):
      names = ", ".join(d.name for d in devices.DEVICES)
      raise UserError(
        f"--device {device}: its FLOP/s are not known, and nothing in {workdir} was measured on "
        f"it; known are {names}"
      )

  def _is_same(self, kind: str) -> bool:
    if self._known is None:
      return kind == self.device
    return devices.find(kind) == self._known

  def of(self, cost: Cost) -> Rate | None:
    """Returns the speed at a run's model, None when no device is given."""
    if self.device is None:
      return None
    if self._seen and self._mfu is None:
      return self._measured(cost)
    peak = devices.peak_flops(self.device, "float32" if cost.dtype == "float32" else "bfloat16")
    share = self._mfu if self._mfu is not None else speed.published_mfu(cost.flops_per_image)
    what = "as given" if self._mfu is not None else "as published ViTs of that size reach on TPU v3"
    return Rate(peak * share, f"{share:.0%} of {peak / 1e12:.4g} T, {what}")

  def _measured(self, cost: Cost) -> Rate:
    distance = {
      s.model: (s.model != cost.model, abs(np.log(s.flops_per_image / cost.flops_per_image)))
      for s in self._seen
    }
    model = min(distance, key=distance.__getitem__)
    rate = statistics.median(s.rate for s in self._seen if s.model == model)
    return Rate(rate, "measured" if model == cost.model else f"measured of {model}")


def _read(workdir: Path) -> dict[str, Sequence[_Seen]]:
  """Returns the speeds below a directory, by kind of device."""
  seen: dict[str, list[_Seen]] = {}
  for path in sorted(workdir.rglob(measurements.FILE_NAME)):
    for m in measurements.read(path.parent):
      if m["device_seconds"] > 0:
        rate = m["train_flops"] / m["device_seconds"]
        seen.setdefault(m["device_kind"], []).append(_Seen(m["model"], m["flops_per_image"], rate))
  return seen
