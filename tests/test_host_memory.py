"""Huge pages for programs on the CPU."""

import os
import platform
import subprocess
import sys

import pytest

from vit_jax import host_memory

GLIBC = platform.libc_ver()
ASK = "glibc.malloc.hugetlb=1"
pytestmark = pytest.mark.skipif(
  GLIBC[0] != "glibc" or tuple(map(int, GLIBC[1].split("."))) < (2, 35), reason="a setting of glibc"
)

# The first lines of a command: what they print, they print once.
CODE = """
import os, sys
from vit_jax import host_memory
before = os.environ.get("GLIBC_TUNABLES")
host_memory.use_huge_pages()
print(os.getpid(), sys.argv[1:], before)
"""


@pytest.fixture
def machine(tmp_path):
  policy, devices = tmp_path / "enabled", tmp_path / "dev"
  policy.write_text("always [madvise] never")
  devices.mkdir()
  return policy, devices


def test_asks_where_the_kernel_wants_to_be_asked(machine):
  assert host_memory.tunables({}, *machine) == ASK
  assert host_memory.tunables({"JAX_PLATFORMS": "cpu"}, *machine) == ASK
  for policy in ("[always] madvise never", "always madvise [never]"):
    machine[0].write_text(policy)
    assert host_memory.tunables({}, *machine) is None
  machine[0].unlink()
  assert host_memory.tunables({}, *machine) is None


def test_other_settings_stay_and_those_of_malloc_win(machine):
  other = "glibc.cpu.hwcaps=-AVX2_Usable"
  assert host_memory.tunables({"GLIBC_TUNABLES": other}, *machine) == f"{other}:{ASK}"
  for own in ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=2"}, {"MALLOC_ARENA_MAX": "2"}):
    assert host_memory.tunables(own, *machine) is None


@pytest.mark.parametrize(
  ("platforms", "device", "asks"),
  [
    ("cpu", "nvidia0", True),
    ("cuda,cpu", None, False),
    ("", "nvidia0", False),
    ("", "accel0", False),
    ("", "vfio/0", False),
    ("", "nvidiactl", True),
  ],
)
def test_only_where_jax_computes_on_the_cpu(machine, platforms, device, asks):
  if device:
    (machine[1] / device).parent.mkdir(exist_ok=True)
    (machine[1] / device).touch()
  assert (host_memory.tunables({"JAX_PLATFORMS": platforms}, *machine) == ASK) is asks


def test_the_process_starts_again_once_and_stays_the_same():
  environ = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
  environ["JAX_PLATFORMS"] = "cpu"
  expected = host_memory.tunables(environ)
  command = [sys.executable, "-c", CODE, "--a", "b c"]
  with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
    out, _ = process.communicate()
  assert process.returncode == 0
  assert out == f"{process.pid} ['--a', 'b c'] {expected}\n"
