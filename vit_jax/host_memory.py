"""How the C library gives freed memory back to the system: not, while a program runs on the CPU.

XLA's CPU backend allocates the temporary memory of a program at each call. glibc maps blocks of
more than 32 MiB anew each time, and the kernel then zeroes every page at its first touch: a fifth
of the processor time of a ViT-S/16's training step, much of it in loops that run on one core.
"""

import ctypes
import os
import sys
from collections.abc import Mapping
from pathlib import Path

# Of glibc's <malloc.h>: one arena, since the others hold no block above 64 MiB; none is mapped by
# itself; the end of the heap stays.
_M_ARENA_MAX, _M_MMAP_MAX, _M_TRIM_THRESHOLD = -8, -4, -1
_OPTIONS = {_M_ARENA_MAX: 1, _M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: -1}

# Of NVIDIA's and AMD's GPUs and of TPUs, below /dev.
_ACCELERATORS = ("nvidia[0-9]*", "kfd", "accel*", "vfio/[0-9]*")


def runs_on_cpu(environ: Mapping[str, str] = os.environ, devices: Path = Path("/dev")) -> bool:
  """Whether JAX will compute on the CPU; a guess that does not start its backend."""
  platforms = environ.get("JAX_PLATFORMS")
  if platforms:
    return platforms.split(",")[0] == "cpu"
  return not any(any(devices.glob(pattern)) for pattern in _ACCELERATORS)


def keep(environ: Mapping[str, str] = os.environ) -> bool:
  """Lets freed memory stay with the process, if it computes on the CPU.

  To be called before JAX starts its threads, each of which would get an arena. The process then
  holds as much as it ever needed at once. Nothing changes where the environment has settings of
  glibc's malloc (MALLOC_..., GLIBC_TUNABLES), or where the C library is another.

  Returns:
    Whether it does so.
  """
  chosen = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in environ)
  if sys.platform != "linux" or chosen or not runs_on_cpu(environ):
    return False
  mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
  return mallopt is not None and all(mallopt(*option) == 1 for option in _OPTIONS.items())
