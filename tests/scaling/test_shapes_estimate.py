"""The planner's arithmetic: parameters, FLOPs and state exactly, memory against the compiler."""

import json
from pathlib import Path

import jax
import pytest

from scaling.planner import calibrate, grid, memory, parameters, plan, speed, topology, work
from vit_jax import ahead, flops, models
from vit_jax.devices import GIB
from vit_jax.state import num_bytes

CONFIG = "configs/vit_g_pretrain.py:G/14,unseen"
RECORDS = Path(__file__).parent / "compiled_shapes.jsonl"


def small(pool, **fields):
  overrides = {"model.pool": pool, "data.image_size": 32, **fields}
  return plan.Plan(CONFIG, tuple(f"--config.{k}={v}" for k, v in overrides.items()), 10)


def setting(optimizer="config", fsdp=1, zero1=1, batch=1):
  return grid.Setting("cpu", batch, optimizer, "full", fsdp, zero1)


@pytest.mark.parametrize(
  ("fields", "name"),
  [
    ({"pool": "map"}, "ViT-B/16"),
    ({"pool": "tok", "pre_logits": True}, "ViT-S/32"),
    ({"pool": "gap", "posemb": "sincos2d"}, "ViT-G/14"),
    ({"pool": "tok", "distilled": True}, "ViT-Ti/16"),
  ],
)
def test_parameters_and_flops_are_those_of_the_model(fields, name):
  overrides = tuple(f"--config.model.{k}={v}" for k, v in fields.items())
  kind = plan.Plan(CONFIG, overrides, 1000).kind("config")
  model = models.create(name, num_classes=1000, image_size=224, scan=True, **fields)
  shape = grid.Shape(model.depth, model.width, model.num_heads, model.mlp_dim, model.patch_size)
  found = work.of(kind, shape)
  variables = jax.eval_shape(
    lambda: model.init(jax.random.key(0), jax.numpy.zeros((1, 224, 224, 3)), train=False)
  )
  assert found.params == parameters.count(variables["params"])
  assert found.forward == flops.model_flops(model, 224)


@pytest.mark.parametrize("optimizer", ["adam", "adam-bf16", "adafactor"])
def test_state_is_that_of_the_job(optimizer):
  cell = grid.Cell(grid.Shape(3, 64, 4, 96, 8), setting(optimizer))
  plans = small("map", **{"ema.decay": 0.9, "lawa.snapshots": 2, "lawa.every": 5})
  job = ahead.build(plans.config(cell), jax.devices()[:1], plans.classes)
  found = memory.state(plans.kind(optimizer), cell)
  assert found.params == num_bytes(job.target.params)
  assert found.moments == num_bytes(job.target.opt_state)
  assert found.averages == num_bytes(job.target.averages) == 3 * found.params
  assert found.count == job.num_params


def test_sharding_divides_what_it_shards():
  plans, shape = small("gap", **{"ema.decay": 0.9}), grid.Shape(4, 256, 4, 1024, 8)
  kind = plans.kind("adam")

  def state(**sharding):
    return memory.state(kind, grid.Cell(shape, setting("adam", **sharding)))

  whole, fsdp, zero1 = state(), state(fsdp=4), state(zero1=4)
  assert whole.params / 4 < fsdp.params < whole.params / 3.8
  assert whole.moments / 4 < fsdp.moments < whole.moments / 3.8
  assert whole.averages == whole.params
  assert zero1.params == whole.params
  assert zero1.moments == fsdp.moments
  assert zero1.averages == fsdp.averages == fsdp.params
  assert fsdp.count < whole.count / 3.8


def test_an_average_takes_a_copy_of_the_parameters():
  cell = grid.Cell(grid.Shape(8, 64, 4, 128, 8), setting("adafactor"))
  plain, averaged = (
    memory.estimate(small("map", **fields).kind("adafactor"), cell)
    for fields in ({}, {"ema.decay": 0.999})
  )
  count = work.of(small("map").kind("adafactor"), cell.shape).params
  assert averaged - plain == pytest.approx(4 * count)


def test_what_no_estimate_has_is_named():
  assert small("map").left_out == []
  fields = {"sam.kind": "asam", "sam.rho": 0.1, "distill.teacher": "x.npz", "ema.decay": 0.9}
  assert small("map", **fields).left_out == ["sam.kind=asam", "distill.teacher=x.npz"]


def test_updates_within_of_any_optimiser_have_a_time():
  cell = grid.Cell(grid.Shape(8, 64, 4, 128, 8), setting("adam"))
  where = topology.find("v3:2x2")
  after, within = (
    speed.seconds(small("map", updates=updates).kind("adam"), cell, where)
    for updates in ("after", "within")
  )
  assert within == after  # as no record tells of Adam within


@pytest.mark.parametrize("more", [{"batch": 2}, {"depth": 9}, {"mlp_dim": 160}])
def test_more_needs_more(more):
  fields = {**grid.Cell(grid.Shape(8, 64, 4, 128, 8), setting("adam")).to_json()}
  kind = small("map").kind("adam")
  less, larger = (grid.Cell.of_json({**fields, **change}) for change in ({}, more))
  assert memory.estimate(kind, larger) > memory.estimate(kind, less)


def recorded():
  return [json.loads(line) for line in RECORDS.read_text().splitlines()]


@pytest.mark.parametrize("record", recorded(), ids=lambda r: "-".join(map(str, r["cell"].values())))
def test_memory_is_within_a_tenth_of_the_compilers(record):
  plans, cell = calibrate.cell_of(record)
  found = memory.estimate(plans.kind(cell.setting.optimizer), cell)
  assert found == pytest.approx(record["hbm"], rel=0.1)
  where = topology.find(cell.setting.topology)
  if abs(record["hbm"] / where.hbm - 1) > 0.05:
    assert (found <= where.hbm) == (not record["oom"])


def test_cycles_are_about_those_of_the_compiler():
  ratios = []
  for record in recorded():
    if record["cycles"]:
      plans, cell = calibrate.cell_of(record)
      where = topology.find(cell.setting.topology)
      seconds = speed.seconds(plans.kind(cell.setting.optimizer), cell, where)
      ratios.append(seconds * where.clock / record["cycles"])
  assert all(0.6 < ratio < 1.6 for ratio in ratios), ratios


def test_published_utilisation_is_between_its_neighbours():
  assert speed.published_mfu(35.1e9) == pytest.approx(0.397)
  assert 0.397 < speed.published_mfu(60e9) < 0.447
  assert speed.published_mfu(1e15) == pytest.approx(0.454)


def test_clocks_are_the_chips():
  clocks = {name: topology.find(name).clock / 1e6 for name in ("v3:2x2", "v4:2x2x1", "v5e:2x2")}
  assert clocks == pytest.approx({"v3:2x2": 940, "v4:2x2x1": 1050, "v5e:2x2": 1500}, rel=0.005)


def test_the_documented_table_is_what_a_calibration_prints():
  documented = (Path(__file__).parents[2] / "docs" / "shapes.md").read_text().splitlines()
  lines = calibrate.table(calibrate.read(RECORDS))
  assert [line for line in lines if line not in documented] == []


def test_a_calibration_reads_what_a_crash_has_left(tmp_path, capsys):
  path = tmp_path / "compiled.jsonl"
  lines = RECORDS.read_text().splitlines()[-3:]
  path.write_text(f"{lines[0]}\n{lines[1][:100]}\n{lines[2]}\n{lines[1][:50]}")
  assert calibrate.main([str(path)]) == 0
  assert capsys.readouterr().out.count("\n| 12 x 768//12") == 2
  path.write_text(f"{lines[0]}\n")
  assert calibrate.main([str(path)]) == 2
  assert "two are needed" in capsys.readouterr().err


def test_a_calibration_finds_the_constants_of_its_rows():
  rows = []
  for record in recorded()[:6]:
    terms, _ = calibrate.memory_row(record)
    truth = {"kept": 1.0, "layer": 0.7, "gathered": 1.0, "rest": 30.0}
    rows.append((terms, calibrate.predict(terms, truth)))
  found = calibrate.fit(rows, ("layer", "rest"))
  assert found == pytest.approx({"layer": 0.7, "rest": 30.0}, rel=1e-6)


def test_v3_holds_what_the_compiler_says():
  where = topology.find("v3:2x2")
  assert where.devices == 8
  assert where.hbm / GIB == pytest.approx(15.48, abs=0.01)
