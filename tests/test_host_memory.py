"""Memory that stays with the process."""

import platform
import subprocess
import sys

import pytest

from vit_jax import host_memory

CODE = """
import resource, sys
import numpy as np
from vit_jax import host_memory
host_memory.keep({"JAX_PLATFORMS": "cpu", **dict.fromkeys(sys.argv[1:], "2")})
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(2):
  before = faults()
  np.ones(2**24, np.float32)  # 64 MiB
  found = faults() - before
print(found)
"""


def _faults(*args: str) -> int:
  run = [sys.executable, "-c", CODE, *args]
  return int(subprocess.run(run, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_a_large_block_is_not_mapped_again():
  assert _faults() < 100


def test_settings_of_the_user_win():
  assert _faults("MALLOC_ARENA_MAX") >= 32  # of 4 KiB, or at least as huge pages of 2 MiB


@pytest.mark.parametrize(
  ("platforms", "device", "expected"),
  [
    ("cpu", "nvidia0", True),
    ("cuda,cpu", None, False),
    ("", None, True),
    ("", "nvidia0", False),
    ("", "accel0", False),
    ("", "vfio/0", False),
    ("", "nvidiactl", True),
  ],
)
def test_only_where_jax_computes_on_the_cpu(tmp_path, platforms, device, expected):
  if device:
    (tmp_path / device).parent.mkdir(exist_ok=True)
    (tmp_path / device).touch()
  assert host_memory.runs_on_cpu({"JAX_PLATFORMS": platforms}, tmp_path) is expected


def test_an_accelerator_is_left_alone():
  assert not host_memory.keep({"JAX_PLATFORMS": "tpu"})
