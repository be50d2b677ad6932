"""Evaluators on features, and the record's protocol, in a run of the trainer."""

import json

import pytest
from training import run_on_devices

from scaling import measurements as scaling_measurements
from vit_jax import config as config_lib
from vit_jax import job as job_lib
from vit_jax import measurements, train

DATA = "synthetic(train_size=2000, test_size=500, label_noise=0.0, glyphs=20)"
CONFIG = dict(
  batch_size=96,
  total_steps=80,
  model=dict(name="ViT-mu/8"),
  data=dict(name=DATA, train="value_range(-1, 1)"),
  optimizer=dict(learning_rate=3e-3),
  schedule=dict(name="cosine", warmup=10),
  evaluators=dict(
    test=dict(type="classification"),
    few=dict(type="fewshot", shots=(1, 5, 25), train_split="train[:1000]", l2=16.0),
    near=dict(type="knn", train_split="train[:1000]"),
    probe=dict(type="linear_probe", train_split="train[:1000]", l2_grid=(1e-1, 1e-3)),
  ),
)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("run")
  train.run(config_lib.resolve(CONFIG), workdir, "run")
  (found,) = measurements.read(workdir)
  return workdir, found


def test_a_trained_model_is_worth_more_than_chance(record):
  found = record[1]["metrics"]
  assert found["test_error"] < 0.7
  assert found["few_25shot_error"] < found["few_5shot_error"] < found["few_1shot_error"] < 0.88
  assert found["near_error"] < 0.7
  assert found["probe_error"] < 0.7
  assert 0 < found["test_ece"] < 0.5
  assert {found[f"{e}_examples"] for e in ("test", "few", "near", "probe")} == {500}


def test_the_record_says_how_it_was_measured_and_scaling_reads_it(record):
  workdir, found = record
  protocol = found["extra"]["protocol"]
  assert protocol["test"] == {
    "dataset": DATA,
    "split": "test",
    "transforms": "value_range(-1, 1)",
    "image_size": 16,
    "class_rule": "argmax of all 10 classes",
  }
  assert protocol["few"]["shots"] == [1, 5, 25]
  assert protocol["few"]["l2"] == 16.0
  assert protocol["near"]["k"] == 20
  (row,) = scaling_measurements.read([workdir]).rows
  for key in ("dataset", "image_size", "seed", "model"):
    assert row[key] == found[key]
  for key, value in found["metrics"].items():
    assert row[key] == value


SCRIPT = """
from vit_jax import config as config_lib, job as job_lib
job = job_lib.build(config_lib.resolve({config}), "run")
state = job.create_state()
print(json.dumps({{k: v for e in job.evaluators.values() for k, v in e(state).items()}}))
"""


def test_eight_devices_measure_what_one_does():
  config = json.loads(json.dumps(CONFIG))
  config["data"]["name"] = DATA.replace("500", "203")
  config["mesh"] = dict(fsdp=2)
  for name in ("few", "near", "probe"):
    config["evaluators"][name]["train_split"] = "train[:301]"
  config["evaluators"]["few"]["shots"] = [1, 5]
  config["evaluators"]["probe"]["l2_grid"] = [1e-1]
  found = json.loads(run_on_devices(8, SCRIPT.format(config=config)).splitlines()[-1])
  config["mesh"] = dict(fsdp=1)
  job = job_lib.build(config_lib.resolve(config), "run")
  state = job.create_state()
  expected = {k: v for e in job.evaluators.values() for k, v in e(state).items()}
  assert found.keys() == expected.keys()
  for key, value in expected.items():
    # Sums in another order may turn over a prediction or two.
    tolerance = 2.5 / 203 if key.endswith("_error") else 1e-4
    assert found[key] == pytest.approx(value, abs=tolerance), key
