"""What is known of a cell, and how well."""

from __future__ import annotations

import dataclasses

from scaling.planner import work
from scaling.planner.grid import Cell
from scaling.planner.topology import Topology
from vit_jax.devices import GIB

# How a cell's memory is known, from the surest on.
SOURCES = ("compiled", "extrapolated", "estimated")


@dataclasses.dataclass(frozen=True)
class Outcome:
  """A cell and what it needs.

  Attributes:
    cell: which.
    where: its devices.
    work: of the model.
    source: "compiled"; "extrapolated" in depth, from two compiled depths; or "estimated".
    hbm: bytes per device; None: the compiler only said that it is too much.
    fits: whether a step can run.
    seconds: of a step, estimated; None: not known, or it does not fit.
    cycles: of a step by the TPU compiler, where it compiled (or of its two depths).
    largest_batch: images per device that fit (0: none do); None: not asked for.
    largest_source: how it is known.
    note: what went wrong; "" if nothing.
  """

  cell: Cell
  where: Topology
  work: work.Work
  source: str
  hbm: float | None
  fits: bool
  seconds: float | None
  cycles: float | None = None
  largest_batch: int | None = None
  largest_source: str = ""
  note: str = ""

  @property
  def train_flops(self) -> float:
    """Returns the FLOPs that training on an image is counted as: three forward passes."""
    return 3.0 * self.work.forward

  @property
  def images_per_second(self) -> float | None:
    """Returns those of one device."""
    return self.cell.setting.batch / self.seconds if self.seconds else None

  @property
  def mfu(self) -> float | None:
    """Returns the share of the device's peak that the model's FLOPs use."""
    if not self.seconds or not self.where.peak:
      return None
    return self.images_per_second * self.train_flops / self.where.peak

  def to_json(self) -> dict[str, object]:
    """Returns a flat row, GiB and GFLOPs."""
    return {
      **self.cell.to_json(),
      "devices": self.where.devices,
      "params": self.work.params,
      "forward_gflops": self.work.forward / 1e9,
      "hbm_gib": None if self.hbm is None else self.hbm / GIB,
      "limit_gib": self.where.hbm and self.where.hbm / GIB,
      "fits": self.fits,
      "source": self.source,
      "step_seconds": self.seconds,
      "images_per_second_per_device": self.images_per_second,
      "mfu": self.mfu,
      "largest_batch": self.largest_batch,
      "largest_batch_source": self.largest_source,
      "note": self.note,
    }
