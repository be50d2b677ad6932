"""What the benchmark compares computes the same; what it records survives a kill."""

import importlib
import json
import pathlib
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import models
from vit_jax.models import attention, encoder, vit

FOLDER = pathlib.Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
  """Returns the driver, imported as when it is run."""
  monkeypatch.syspath_prepend(str(FOLDER))
  yield importlib.import_module("accelerator")
  for name in ("accelerator", "accelerator_variants"):
    sys.modules.pop(name, None)


@pytest.fixture
def variants(monkeypatch):
  """Returns the variants; what they change is put back."""
  monkeypatch.syspath_prepend(str(FOLDER))
  for module, name in (
    (attention, "attend"),
    (attention, "_flash_can"),
    (encoder, "Attention"),
    (vit, "Encoder"),
  ):
    monkeypatch.setattr(module, name, getattr(module, name))
  yield importlib.import_module("accelerator_variants")
  sys.modules.pop("accelerator_variants", None)


def logits(pool, params=None, scan=True):
  """Returns the parameters and logits of a tiny model, of 9 tokens with "gap"."""
  fields = dict(width=16, depth=2, mlp_dim=32, num_heads=2, scan=scan, head_zeroinit=False)
  model = models.create("ViT-mu/4", num_classes=5, image_size=12, pool=pool, **fields)
  images = jax.random.normal(jax.random.key(1), (2, 12, 12, 3))
  if params is None:
    params = model.init(jax.random.key(0), images, train=False)
  return params, model.apply(params, images, train=False).logits


@pytest.mark.parametrize("pool", ["gap", "map"])
@pytest.mark.parametrize("name", ["tokens padded to 64", "attention of jax.nn, XLA"])
def test_same_function(variants, name, pool):
  params, plain = logits(pool)
  variants.VARIANTS[name].change()
  np.testing.assert_allclose(logits(pool, params)[1], plain, atol=1e-5)


def test_fused_is_three_products_in_one(variants):
  params, plain = logits("gap")
  old = params["params"]["encoder"]["blocks"]["attention"]
  parts = [old[name] for name in ("query", "key", "value")]
  fused = dict(
    kernel=jnp.stack([p["kernel"] for p in parts], axis=2),  # [depth, D, 3, H, D / H]
    bias=jnp.stack([p["bias"] for p in parts], axis=1),
  )
  params["params"]["encoder"]["blocks"]["attention"] = dict(qkv=fused, out=old["out"])
  variants.fuse()
  np.testing.assert_allclose(logits("gap", params)[1], plain, atol=1e-5)


FAKE = """
import json, sys
if sys.argv[1] == "matmul":
  print(json.dumps(dict(device="NVIDIA H200", devices=1, version="x", flops=8e14)))
  sys.exit()
variant, batches = sys.argv[2], [int(b) for b in sys.argv[6:]]
if variant == "fused QKV":
  sys.exit("no such kernel")
for b in batches:
  here = dict(device="NVIDIA H200", devices=1, batch=b)
  if b > (16 if variant == "attention written out" else 64):
    print(json.dumps(dict(**here, error="out of memory")))
    break
  found = dict(seconds=b / 1500, images_per_second=1500 - abs(b - 32), compile_seconds=1.0)
  print(json.dumps(dict(**here, **found)), flush=True)
"""


def run(benchmark, monkeypatch, capsys, out, *flags):
  """Runs the driver, and returns what it printed and recorded."""
  arguments = ["accelerator.py", "--models", "L/16", "--out", str(out), *flags]
  monkeypatch.setattr(sys, "argv", arguments)
  benchmark.main()
  return capsys.readouterr().out, [json.loads(line) for line in out.read_text().splitlines()]


def test_search_failures_and_going_on(benchmark, monkeypatch, tmp_path, capsys):
  (tmp_path / "accelerator_step.py").write_text(FAKE)
  monkeypatch.setattr(benchmark, "FOLDER", tmp_path)
  monkeypatch.setattr(benchmark, "has_peer", lambda: False)
  flags = ["--variants", "attention written out", "fused QKV"]
  out = tmp_path / "found.jsonl"
  text, lines = run(benchmark, monkeypatch, capsys, out, *flags)
  found = [(m["variant"], m["batch"], m.get("error")) for m in lines[1:]]
  assert found == [
    ("scan", 16, None),
    ("scan", 32, None),
    ("scan", 64, None),
    ("scan", 128, "out of memory"),
    ("attention written out", 32, "out of memory"),  # at the best batch
    ("attention written out", 16, None),
    ("fused QKV", 32, "no such kernel"),
  ]
  assert "matmul 8192: 800.00 TFLOP/s, 80.9% of the maker's peak" in text
  assert "skipped" in text
  mfu, of_matmul = (3 * 122.9e9 * 1500 / most for most in (989e12, 8e14))
  assert f"{mfu:.1%}" in text
  assert f"{of_matmul:.1%}" in text
  # Killed in the middle of a line: that one is lost, and only what has failed is tried again.
  out.write_text("".join(f"{json.dumps(m)}\n" for m in lines) + '{"model": "L/1')
  _, again = run(benchmark, monkeypatch, capsys, out, *flags)
  assert again == [*lines, lines[-1]]


def test_the_peer_is_compared_a_device(benchmark, tmp_path, capsys):
  record = benchmark.Record(tmp_path / "x.jsonl")
  same = dict(model="B/16", size=224, batch=64, seconds=1.0, compile_seconds=1.0)
  ours = dict(device="NVIDIA H200", devices=8, images_per_second=8000.0)
  record.add(dict(variant="scan", **same, **ours))
  record.add(
    dict(variant=benchmark.PEER, **same, **ours | dict(devices=1, images_per_second=500.0))
  )
  benchmark.show(record, types.SimpleNamespace(matmul=8192, size=224, models=["B/16"]))
  assert "2.00 times as fast" in capsys.readouterr().out
