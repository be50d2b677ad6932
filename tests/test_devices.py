"""The table of devices: what JAX calls them, and figures that are known from elsewhere."""

import subprocess
import sys

import pytest

from vit_jax import devices


@pytest.mark.parametrize(
  ("kind", "name", "tflops"),
  [
    ("TPU v3", "v3", 61.5),  # "Scaling Vision Transformers", figure 2's core-days
    ("TPU v4", "v4", 275),
    ("TPU v5 lite", "v5e", 197),
    ("TPU v5", "v5p", 459),
    ("TPU v6 lite", "v6e", 918),
    ("TPU7x", "v7x", 1153.5),
    ("NVIDIA A100-SXM4-40GB", "A100-40GB", 312),
    ("NVIDIA A100 80GB PCIe", "A100", 312),
    ("NVIDIA H100 80GB HBM3", "H100", 989),
    ("NVIDIA H100 PCIe", "H100-PCIe", 756.5),
    ("NVIDIA H200", "H200", 989),
    ("NVIDIA L4", "L4", 121),
    ("NVIDIA L40S", "L40S", 362),
  ],
)
def test_what_jax_calls_a_device(kind, name, tflops):
  device = devices.find(kind)
  assert device.name == name
  assert device == devices.find(name)
  assert devices.peak_flops(kind) == tflops * 1e12


@pytest.mark.parametrize("kind", ["cpu", "TPU v4 lite", "NVIDIA GeForce RTX 3090", "TPU v33", ""])
def test_other_devices_have_no_peak(kind):
  assert devices.find(kind) is None
  assert devices.peak_flops(kind) is None


def test_names_are_unique_and_float32_is_no_faster():
  assert len({d.name for d in devices.DEVICES}) == len(devices.DEVICES)
  assert all(d.float32 <= d.bfloat16 and d.memory > 8e9 - 1 for d in devices.DEVICES)
  assert devices.peak_flops("v4", "float32") == devices.peak_flops("v4")
  assert devices.peak_flops("A100", "float32") == 156e12


def test_the_table_needs_no_jax():
  code = "import sys; from vit_jax import devices; assert 'jax' not in sys.modules"
  subprocess.run([sys.executable, "-c", code], check=True)
