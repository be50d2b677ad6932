"""The plan of a sweep against numbers worked out by hand."""

import json
from pathlib import Path

import pytest

from scaling import sweep
from scaling.launch import costs, dryrun, grid, places, rates
from vit_jax import devices, measurements
from vit_jax.errors import UserError

# ViT-w16d2/4 on 16 px: 16 tokens of width 16 and MLPs of 64, no class token, 10 classes.
CONFIG = """
from ml_collections import ConfigDict
def get_config():
  return ConfigDict(dict(
      batch_size=32, branches=(100, 200), cooldown=0.25, checkpoint_every=40,
      model=dict(name="ViT-w16d2/4", pool="gap"),
      schedule=dict(name="rsqrt", warmup=2, timescale=10)))
"""
TOKENS, WIDTH, PATCH = 16, 16, 4 * 4 * 3
BLOCK = 2 * TOKENS * WIDTH * (4 * WIDTH + 2 * 4 * WIDTH) + 2 * 2 * TOKENS**2 * WIDTH
FORWARD = 2 * TOKENS * PATCH * WIDTH + 2 * BLOCK + 2 * WIDTH * 10
# The trunk has 150 steps, the cooldowns 25 and 50.
STEPS, SEPARATE = 150 + 25 + 50, 100 + 200


@pytest.fixture
def config(tmp_path):
  path = tmp_path / "config.py"
  path.write_text(CONFIG)
  return str(path)


def plan(config, tmp_path, *flags):
  file = tmp_path / "plan.json"
  arguments = ["--config", config, "--workdir", str(tmp_path / "out"), "--dry-run"]
  assert sweep.main([*arguments, "--json", str(file), *flags]) == 0
  return json.loads(file.read_text())


def test_steps_flops_and_what_sharing_saves(config, tmp_path, capsys):
  found = plan(config, tmp_path, "--grid", "seed=0,1,2", "--device", "v3", "--mfu", "0.5")
  flops = 3 * FORWARD * 32
  assert [r["run"] for r in found["runs"]] == ["seed=0", "seed=1", "seed=2"]
  run = found["runs"][0]
  assert run["flops_per_image"] == FORWARD
  assert run["all"]["steps"] == STEPS
  assert run["all"]["train_flops"] == STEPS * flops
  hours = 3 * STEPS * flops / (61.5e12 * 0.5) / 3600
  assert found["all"]["device_hours"] == pytest.approx(hours)
  assert found["separate"]["steps"] == 3 * SEPARATE
  assert found["saved"]["steps"] == 3 * (SEPARATE - STEPS)
  assert found["saved"]["device_hours"] == pytest.approx(hours * (SEPARATE / STEPS - 1))
  out = capsys.readouterr().out
  assert "separate runs would take 900 steps" in out
  assert "saves 225 steps" in out
  assert "(25% of the FLOPs)" in out
  assert not (tmp_path / "out").exists()


def test_bytes_on_disk(config, tmp_path):
  # Parameters and two moments of AdamW in float32, and four counters.
  block = 12 * WIDTH**2 + 13 * WIDTH
  params = PATCH * WIDTH + WIDTH + TOKENS * WIDTH + 2 * block + 2 * WIDTH + WIDTH * 10 + 10
  # Of the trunk: 75 and 150 for the branches, the latter also the last, and 120; of the branches
  # 80 and 100, 160 and 200.
  found = plan(config, tmp_path)["runs"][0]
  assert found["parameters"] == params
  assert found["disk_bytes"] == pytest.approx(7 * 3 * params * 4, rel=0.01)


def test_speed_is_the_published_or_the_measured_one(config, tmp_path):
  (run,) = grid.expand(config, tmp_path / "out")
  (cost,) = costs.of_runs([run])
  published = rates.Rates(tmp_path / "out", "A100").of(cost)
  share = published.flops / devices.peak_flops("A100", "float32")
  assert 0.1 < share < 0.13
  assert rates.Rates(tmp_path / "out").of(cost) is None
  record = dict(
    model=cost.model, flops_per_image=cost.flops_per_image, train_flops=6e12, device_seconds=2.0
  )
  (tmp_path / "out").mkdir()
  text = "".join(
    json.dumps({**record, "device_kind": kind, "train_flops": flops}) + "\n"
    for kind, flops in (
      ("NVIDIA A100-SXM4-80GB", 6e12),
      ("cpu", 2e10),
      ("cpu", 4e10),
      ("cpu", 9e10),
    )
  )
  (tmp_path / "out" / measurements.FILE_NAME).write_text(text)
  assert rates.Rates(tmp_path / "out", "A100").of(cost).flops == 3e12
  assert rates.Rates(tmp_path / "out").of(cost) == rates.Rate(2e10, "measured")
  assert rates.Rates(tmp_path / "out", "H100").of(cost).flops == pytest.approx(494.5e12 * share)
  assert rates.Rates(tmp_path / "out", "A100", 0.5).of(cost).flops == 78e12


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--device", "cpu"], "--device cpu: its FLOP/s are not known"),
    (["--device", "v3", "--mfu", "40"], "--mfu 40: a share"),
    (["--json", "/nowhere/plan.json"], "--json /nowhere/plan.json: cannot write there"),
  ],
)
def test_mistakes(config, tmp_path, flags, message):
  with pytest.raises(UserError, match=message):
    plan(config, tmp_path, *flags)


def test_data_that_is_not_here_does_not_hinder_a_plan(config, tmp_path, capsys):
  plan(config, tmp_path, "--config.data.name=imagenet2012", f"--config.data.dir={tmp_path}")
  assert "taken to have 1,000 classes: imagenet2012" in capsys.readouterr().out


def test_what_is_done_is_not_left(config, tmp_path):
  (run,) = grid.expand(config, tmp_path / "out")
  (run.directory / "checkpoints/120").mkdir(parents=True)
  directory = run.directory / "branches/100"
  directory.mkdir(parents=True)
  (directory / measurements.FILE_NAME).write_text(
    json.dumps({"final": True, "step": 100, "device_seconds": 0}) + "\n"
  )
  (priced,) = dryrun.price([run], rates.Rates(tmp_path / "nothing"))
  assert priced.finished == (1, 3)
  assert priced.left.steps == 30 + 50
  assert priced.all.steps == STEPS


@pytest.mark.parametrize(
  ("cores", "jobs", "expected"),
  [(4, 2, [{0, 1}, {2, 3}]), (5, 2, [{0, 1}, {2, 3, 4}]), (1, 3, [{0}] * 3), (8, 1, [None])],
)
def test_cores_are_divided(monkeypatch, cores, jobs, expected):
  monkeypatch.setattr(places.os, "sched_getaffinity", lambda pid: set(range(cores)))
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  assert [p.cores for p in places.find(jobs)] == expected


def test_gpus_are_divided(monkeypatch):
  monkeypatch.delenv("JAX_PLATFORMS", raising=False)
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
  monkeypatch.setattr(places.importlib.util, "find_spec", lambda name: "cuda" in name or None)
  assert len(places.find(None)) == 4

  def variables(jobs):
    return [p.environment for p in places.find(jobs)]

  assert [v["CUDA_VISIBLE_DEVICES"] for v in variables(2)] == ["0,1", "2,3"]
  assert [v["CUDA_VISIBLE_DEVICES"] for v in variables(8)] == [*"0123"] * 2
  assert variables(8)[0]["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.450"
  with pytest.raises(UserError, match="at least 1"):
    places.find(0)
  # Some of a host's GPUs, which a container has under the host's names: CUDA counts them from 0.
  monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
  there = {"nvidia[0-9]*": [Path("/dev/nvidia2"), Path("/dev/nvidia3")]}
  monkeypatch.setattr(places.Path, "glob", lambda self, pattern: there.get(pattern, []))
  assert [v["CUDA_VISIBLE_DEVICES"] for v in variables(None)] == ["0", "1"]
