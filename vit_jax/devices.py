"""What devices can do at most: FLOP/s and memory, by the makers' figures; never imports jax.

A device is what JAX counts as one: a core of TPU v2 and v3 (half a chip), a whole chip of v4 and
later ones (v7x: half), a GPU. FLOP/s are of dense matrix products, multiply and add counted
separately. Sources:

  TPU: "System architecture" of each version at cloud.google.com/tpu/docs, bfloat16 per chip: v2 46,
    v3 123, v4 275, v5e 197, v5p 459, v6e 918, 7x 2,307 TFLOP/s. "Scaling Vision Transformers"
    (2106.04560) has the same for v3.
  GPU: NVIDIA's data sheets. They print twice as much where sparse matrices are possible (Ampere and
    later); these are the dense halves. H100 and H200 as SXM modules: 989.

Memory is the nominal one, in bytes: XLA leaves a few percent less to programs (of v3's 16 GiB,
15.48).
"""

import dataclasses
import re

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Device:
  """One kind of device.

  Attributes:
    name: as people call it.
    kinds: a regular expression for JAX's `device_kind`.
    bfloat16: FLOP/s at most.
    memory: bytes of HBM.
    float32: FLOP/s at most of float32 products at JAX's default precision, which are bfloat16
      passes on a TPU and TF32 on a GPU.
  """

  name: str
  kinds: str
  bfloat16: float
  memory: int
  float32: float


def _tpu(name: str, kinds: str, tflops: float, memory: float, per_chip: int = 1) -> Device:
  """Returns a TPU by the figures of its chip: TFLOP/s, bytes, and devices in it."""
  peak = tflops * 1e12 / per_chip
  return Device(name, f"TPU ?({kinds})", peak, int(memory / per_chip), peak)


def _gpu(name: str, kinds: str, tflops: float, memory: float) -> Device:
  """Returns a GPU, whose TF32 is half of bfloat16."""
  peak = tflops * 1e12
  return Device(name, f"NVIDIA {kinds}", peak, int(memory), peak / 2)


# The first that fits is taken.
DEVICES = (
  _tpu("v2", "v2", 46, 16 * GIB, per_chip=2),
  _tpu("v3", "v3", 123, 32 * GIB, per_chip=2),
  _tpu("v4", "v4", 275, 32 * GIB),
  _tpu("v5e", "v5e|v5 lite", 197, 16 * GIB),
  _tpu("v5p", "v5p|v5", 459, 95e9),
  _tpu("v6e", "v6e|v6 lite", 918, 32 * GIB),
  _tpu("v7x", "7x", 2307, 192 * GIB, per_chip=2),
  _gpu("A100-40GB", "A100.*40GB.*", 312, 40 * GIB),
  _gpu("A100", "A100.*", 312, 80 * GIB),
  _gpu("H100-PCIe", "H100 PCIe", 756.5, 80 * GIB),
  _gpu("H100-NVL", "H100 NVL", 835.5, 94e9),
  _gpu("H100", "H100.*", 989, 80 * GIB),
  _gpu("H200-NVL", "H200 NVL", 835.5, 141e9),
  _gpu("H200", "H200.*", 989, 141e9),
  _gpu("B200", "B200.*", 2250, 180e9),
  _gpu("GB200", "GB200.*", 2500, 186e9),
  _gpu("L4", "L4", 121, 24e9),
  _gpu("L40S", "L40S", 362, 48e9),
)


def find(name: str) -> Device | None:
  """Returns the device of a `device_kind` of JAX or of a name above; None: it is not known."""
  for device in DEVICES:
    if name == device.name or re.fullmatch(device.kinds, name):
      return device
  return None


def peak_flops(name: str, dtype: str = "bfloat16") -> float | None:
  """Returns the FLOP/s of one device at most; None where they are not known, as for CPUs.

  Args:
    name: see `find`.
    dtype: of the products, "bfloat16" or "float32".
  """
  device = find(name)
  return None if device is None else {"bfloat16": device.bfloat16, "float32": device.float32}[dtype]
