"""Huge pages for what a program allocates, where it computes on the CPU.

XLA's CPU backend allocates the temporary memory of a program at each call. glibc maps so large a
block anew each time, and the kernel zeroes every page at its first touch: a fifth of the processor
time of a ViT-S/16's training step, by pages of 4 KiB. By those of 2 MiB next to nothing is left of
that. Linux gives them to all programs ("always") or, as many distributions set it, to those that
ask ("madvise"); glibc asks if a variable of the environment says so when a program starts.
"""

import contextlib
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "GLIBC_TUNABLES"
_SETTING = "glibc.malloc.hugetlb=1"
_FIRST_GLIBC = (2, 35)  # that knows it

_POLICY = Path("/sys/kernel/mm/transparent_hugepage/enabled")
# Of NVIDIA's and AMD's GPUs and of TPUs, below /dev.
_ACCELERATORS = ("nvidia[0-9]*", "kfd", "accel*", "vfio/[0-9]*")


def _glibc() -> tuple[int, ...]:
  """Returns the version of glibc, (0,) without it."""
  try:
    text = os.confstr("CS_GNU_LIBC_VERSION") or ""
  except (AttributeError, ValueError, OSError):
    text = ""
  return tuple(map(int, re.findall(r"\d+", text))) or (0,)


def _runs_on_cpu(environ: Mapping[str, str], devices: Path) -> bool:
  """Whether JAX will compute on the CPU; a guess that does not start its backend."""
  platforms = environ.get("JAX_PLATFORMS")
  if platforms:
    return platforms.split(",")[0] == "cpu"
  return not any(any(devices.glob(pattern)) for pattern in _ACCELERATORS)


def tunables(
  environ: Mapping[str, str], policy: Path = _POLICY, devices: Path = Path("/dev")
) -> str | None:
  """Returns what `VARIABLE` should be, None where there is nothing to ask for.

  That is with another kernel or C library, where JAX computes on an accelerator, where huge pages
  come or stay away unasked, and where the environment has its own settings of malloc.

  Args:
    environ: the environment.
    policy: the kernel's file that says who gets huge pages.
    devices: the folder of device files.
  """
  given = environ.get(VARIABLE, "")
  asked = "glibc.malloc" in given or any(name.startswith("MALLOC_") for name in environ)
  if asked or _glibc() < _FIRST_GLIBC or not _runs_on_cpu(environ, devices):
    return None
  with contextlib.suppress(OSError):
    if "[madvise]" in policy.read_text():
      return f"{given}:{_SETTING}" if given else _SETTING
  return None


def use_huge_pages() -> None:
  """Starts the program again with `tunables`, if need be; to be called before it has done a thing.

  The process stays the same one, with its number, its files and its arguments.
  """
  value = tunables(os.environ)
  if value is not None and sys.executable:
    with contextlib.suppress(OSError):
      os.execve(
        sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, VARIABLE: value}
      )
