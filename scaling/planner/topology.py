"""What a topology of devices is, before anything is asked of it: how many, which, and their HBM."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from importlib import metadata

from scaling.errors import DataError
from vit_jax import devices

LOCAL = ("cpu", "gpu")  # the devices that are here

# What XLA leaves to a program, in GiB: from what libtpu 0.0.52 says when one wants too much.
_USABLE = {"v2": 7.48, "v3": 15.48, "v4": 30.75, "v5e": 15.75, "v5p": 95.73, "v6e": 31.24}
# Multiplications and additions of a device's matrix units per cycle. By the published peak they
# make clocks of 702, 938, 1049, 1503, 1751 and 1751 MHz.
_FLOPS_PER_CYCLE = {
  "v2": 2**15,
  "v3": 2**16,
  "v4": 2**18,
  "v5e": 2**17,
  "v5p": 2**18,
  "v6e": 2**19,
}
# Bytes that the compiler lets a copy read and write in a cycle: its own figure for a large one.
_BYTES_PER_CYCLE = {"v2": 447, "v3": 450, "v4": 900, "v5e": 442, "v5p": 1136, "v6e": 756}
_GPU_SHARE = 0.9  # of a GPU's memory that a program should count on: the rest is CUDA's and XLA's


@dataclasses.dataclass(frozen=True)
class Topology:
  """A number of equal devices.

  Attributes:
    name: as given.
    devices: how many.
    kind: a name of `vit_jax.devices`; None: not known.
    hbm: bytes that a program can use on each; None: not known.
    compiler: "tpu", "local", or None where nothing can compile for it.
  """

  name: str
  devices: int
  kind: str | None
  hbm: int | None
  compiler: str | None

  @property
  def is_tpu(self) -> bool:
    """Whether the devices are TPUs."""
    return self.kind in _USABLE

  @property
  def flops_per_cycle(self) -> int:
    """Returns what the matrix units of a TPU can do in a cycle."""
    return _FLOPS_PER_CYCLE[self.kind]

  @property
  def bytes_per_cycle(self) -> int:
    """Returns what a TPU's memory can do in a cycle, reading and writing."""
    return _BYTES_PER_CYCLE[self.kind]

  @property
  def clock(self) -> float | None:
    """Returns the cycles of a second, TPUs only."""
    if self.kind not in _FLOPS_PER_CYCLE:
      return None
    return devices.peak_flops(self.kind) / _FLOPS_PER_CYCLE[self.kind]

  @property
  def peak(self) -> float | None:
    """Returns FLOP/s of one device in bfloat16."""
    return self.kind and devices.peak_flops(self.kind)


def has_libtpu() -> bool:
  """Whether the TPU compiler is installed."""
  return libtpu_version() is not None


def libtpu_version() -> str | None:
  """Returns the version of the TPU compiler; None: it is not installed."""
  try:
    return metadata.version("libtpu")
  except metadata.PackageNotFoundError:
    return None


def find(name: str) -> Topology:
  """Returns the topology of a name; see `grid.Setting`.

  Raises:
    DataError: no such one.
  """
  if name in LOCAL:
    return _local(name)
  version, _, rest = name.partition(":")
  if version in _USABLE and re.fullmatch(r"\d+x\d+(x\d+)?", rest):
    chips = math.prod(map(int, rest.split("x")))
    count = chips * (2 if version in ("v2", "v3") else 1)
    compiler = "tpu" if has_libtpu() else None
    return Topology(name, count, version, int(_USABLE[version] * devices.GIB), compiler)
  device = devices.find(version)
  if device is None or version in _USABLE or not re.fullmatch(r"[1-9]\d*|", rest):
    known = ", ".join(d.name for d in devices.DEVICES if d.name not in _USABLE)
    raise DataError(
      f"--topology {name}: a slice of TPUs such as v3:2x2, v4:2x2x1, v5e:2x2, v5p:2x2x1 or "
      f"v6e:2x2; cpu or gpu, what is here; or a number of one of {known}, such as H200:8"
    )
  return Topology(name, int(rest or 1), version, int(device.memory * _GPU_SHARE), None)


def _local(name: str) -> Topology:
  import jax  # noqa: PLC0415  (looks for devices, which nobody may have asked for)

  try:
    local = jax.devices(name)
  except RuntimeError:
    raise DataError(f"--topology {name}: this machine has none that JAX can see") from None
  device = devices.find(local[0].device_kind)
  stats = local[0].memory_stats() or {}
  if name == "cpu":  # whose devices share the machine's memory
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // len(local)
  else:
    memory = stats.get("bytes_limit") or (device and int(device.memory * _GPU_SHARE))
  return Topology(name, len(local), device and device.name, memory, "local")
