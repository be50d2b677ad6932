"""Cells that no job would train are refused before anything is estimated or compiled."""

from __future__ import annotations

from collections.abc import Sequence

from scaling.errors import DataError
from scaling.planner import memory, parameters, topology
from scaling.planner.grid import Cell, Setting
from scaling.planner.plan import Kind, Plan
from vit_jax import optim, within
from vit_jax.errors import UserError


def check(plan: Plan, cells: Sequence[Cell]) -> None:
  """Refuses what does not go together: flags, the config, and the shapes of a grid.

  Raises:
    DataError: names the flag or the shape, and says what to do.
  """
  settings = dict.fromkeys(cell.setting for cell in cells)
  for setting in settings:
    _check_devices(setting)
  for optimizer in dict.fromkeys(setting.optimizer for setting in settings):
    kind = plan.kind(optimizer)
    try:
      for shape in dict.fromkeys(cell.shape for cell in cells):
        parameters.model(kind.model, shape, kind.image_size, kind.classes)
    except UserError as e:
      raise DataError(f"{shape}: {e}") from None
    for cell in {c.setting: c for c in cells if c.setting.optimizer == optimizer}.values():
      _check_batch(kind, cell.setting)
      _check_optimizer(plan, cell)


def _check_devices(setting: Setting) -> None:
  devices = topology.find(setting.topology).devices
  if devices % max(setting.fsdp, setting.zero1):
    raise DataError(
      f"{setting.topology} has {devices} devices, which {setting.sharding} does not divide: give "
      "--fsdp and --zero1 that do, or another --topology"
    )


def _check_batch(kind: Kind, setting: Setting) -> None:
  parts = kind.accumulate
  if setting.batch % parts:
    near = max(1, round(setting.batch / parts)) * parts
    raise DataError(
      f"--batch {setting.batch}: a device cannot take it in accumulate={parts} equal parts; give "
      f"multiples of {parts}, such as {near}"
    )


def _check_optimizer(plan: Plan, cell: Cell) -> None:
  """Refuses options that the optimiser does not have, and updates within what they cannot be."""
  kind, config = plan.kind(cell.setting.optimizer), plan.config(cell)
  try:
    memory.state(kind, cell)
    if kind.within:
      within.check(config, bool(config.freeze))
      params = parameters.shapes(kind, cell.shape)
      optim.layered.make(dict(kind.optimizer), params, within.stacked_path(params))
  except UserError as e:
    raise DataError(f"--optimizer {cell.setting.optimizer}: {e}") from None
