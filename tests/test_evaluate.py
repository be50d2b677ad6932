import json
import shutil

import pytest
from training import tiny, write_config

from scaling import measurements as scaling_measurements
from vit_jax import evaluate, measurements, report, rundir, train
from vit_jax.errors import UserError


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A trunk with a branch of 8 steps."""
  workdir = tmp_path_factory.mktemp("runs") / "tiny"
  train.run(tiny(branches=(8,)), workdir, "tiny")
  return workdir


@pytest.fixture
def branch(trained, tmp_path):
  """A copy of the branch's directory that a test may write into."""
  return shutil.copytree(trained, tmp_path / "tiny") / "branches" / "8"


def run(*flags):
  return evaluate.main([str(f) for f in flags])


def test_a_measurement_is_appended_once(branch, capsys):
  flags = ("--workdir", branch, "--evaluators", "again=classification", "--again.split=test[:40]")
  run(*flags)
  run(*flags)
  trained, later = measurements.read(branch)
  assert "is there already" in capsys.readouterr().out
  assert later["metrics"]["again_examples"] == 40
  assert later["extra"]["protocol"]["again"]["split"] == "test[:40]"
  same = ("run", "branch", "final", "step", "model", "train_flops", "device_seconds", "config_hash")
  assert {k: later[k] for k in same} == {k: trained[k] for k in same}


def test_what_evaluates_and_how_many_at_a_time_say_nothing_of_the_training(branch):
  (line,) = measurements.read(branch)
  line |= {"device_kind": "TPU v3", "device_count": 8}
  (branch / measurements.FILE_NAME).write_text(json.dumps(line) + "\n")
  config = json.loads((branch / rundir.CONFIG_FILE).read_text())
  assert config["batch_size"] != 10
  config |= {"mesh": {"data": 1, "fsdp": 8, "zero1": 1}, "accumulate": 4}  # of another machine
  config["data"]["dir"] = "/not/on/this/machine"
  (branch / rundir.CONFIG_FILE).write_text(json.dumps(config))
  run("--workdir", branch, "--evaluators", "c=classification", "--batch_size", 10)
  trained, later = measurements.read(branch)
  assert later["extra"]["protocol"]["c"]
  same = ("images_seen", "train_flops", "device_seconds", "device_kind", "device_count")
  assert {k: later[k] for k in (*same, "config_hash")} == {
    k: trained[k] for k in (*same, "config_hash")
  }
  assert later["extra"]["measured_on"] == {"kind": "cpu", "count": 1}


def test_no_examples_at_a_time_are_refused(branch):
  with pytest.raises(UserError, match="--batch_size 0: at least one"):
    run("--workdir", branch, "--batch_size", 0)


def test_other_options_are_another_measurement(branch):
  run("--workdir", branch, "--evaluators", "c=classification", "--c.split=test[:40]")
  run("--workdir", branch, "--evaluators", "c=classification", "--c.split=test[:30]")
  assert [m["metrics"].get("c_examples") for m in measurements.read(branch)] == [None, 40, 30]


def test_again_measures_what_training_measured(branch):
  run("--workdir", branch, "--again")
  trained, later = measurements.read(branch)
  assert later["metrics"] == pytest.approx(trained["metrics"], rel=1e-5)


def test_training_does_not_take_a_later_measurement_for_its_own(branch):
  trunk = branch.parent.parent
  run("--workdir", trunk, "--step", 4, "--evaluators", "c=classification", "--c.split=test[:40]")
  assert [m["step"] for m in measurements.read(trunk)] == [6, 4]
  writer = measurements.Writer(trunk)
  assert 6 in writer
  assert 4 not in writer


def test_scaling_reads_both(branch):
  run("--workdir", branch, "--evaluators", "c=classification", "--c.split=test[:40]")
  table = scaling_measurements.read([branch])
  assert {"test_error", "c_error"} <= set(table.numeric())


def test_a_run_that_is_being_trained_is_left_alone(branch):
  with rundir.lock(branch), pytest.raises(rundir.Locked, match="in use by another process"):
    run("--workdir", branch)


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ((), "give one of --workdir DIR, --config FILE.py and --report DIR"),
    (("--evaluators", "clasification"), "unknown evaluator 'clasification': did you mean"),
    (("--evaluators", "test", "--test.splits=test"), "unknown key of .*'splits': did you mean"),
    (("--tset.split=test",), "unexpected '--tset.split=test': options of evaluators are"),
    (("--step", "5"), "no checkpoint of step 5: those it has are"),
  ],
)
def test_mistakes_are_named(branch, flags, message):
  with pytest.raises(UserError, match=message):
    run(*(("--workdir", branch) if flags else ()), *flags)


def test_weights_of_a_config_get_a_record_of_their_own(tmp_path):
  config = write_config(tmp_path)
  flags = ("--config", config, "--config.model.name=ViT-mu/8", "--out", tmp_path / "out")
  run(*flags, "--evaluators", "test")
  (found,) = measurements.read(tmp_path / "out")
  assert (found["step"], found["train_flops"]) == (0, 0)
  assert found["extra"]["weights_sha256"] == "seed 0"


def test_other_weights_are_not_measured_into_the_same_record(tmp_path):
  flags = ("--config", write_config(tmp_path), "--config.model.name=ViT-mu/8")
  run(*flags, "--out", tmp_path / "out", "--evaluators", "test")
  with pytest.raises(UserError, match="out has measurements of other weights"):
    run(*flags, "--config.seed=1", "--out", tmp_path / "out", "--evaluators", "test")


def test_a_mistyped_run_is_not_made(tmp_path):
  with pytest.raises(UserError, match="is no run directory"):
    run("--workdir", tmp_path / "tinny")
  assert not (tmp_path / "tinny").exists()


@pytest.mark.parametrize(
  ("metrics", "main"),
  [
    (["few_1shot_error", "few_1shot_seed0_error", "few_1shot_seed1_error"], ["few_1shot_error"]),
    (["c_fog_error", "c_fog_1_error", "c_fog_5_error", "c_examples"], ["c_fog_error"]),
    ([f"c_kind{i}_error" for i in range(9)] + ["c_mean15_error", "c_mce"], "c_mean15_error c_mce"),
    (
      [f"p_steps{i}_error" for i in range(9)] + ["p_clean_error", "p_error"],
      "p_clean_error p_error",
    ),
    (["ema_few_1shot_error", "ema_few_1shot_seed0_error"], ["ema_few_1shot_error"]),
    (["val_1_error", "val_1_loss"], ["val_1_error"]),
    (["val_loss", "val_examples"], ["val_loss"]),
  ],
)
def test_the_main_metrics(metrics, main):
  expected = main.split() if isinstance(main, str) else main
  assert report.main(metrics, ["c", "few", "p", "val", "val_1"]) == expected


def write(directory, run, metrics, protocol, **fields):
  line = dict(run=run, branch=None, step=8, model="ViT", metrics=metrics)
  line["extra"] = {"protocol": protocol}
  directory.mkdir(parents=True, exist_ok=True)
  with (directory / "measurements.jsonl").open("a") as f:
    f.write(json.dumps({**line, **fields}) + "\n")


def test_a_report_joins_what_was_measured_of_a_model(tmp_path):
  write(tmp_path / "a", "a", {"test_error": 0.5}, {"test": {"split": "test"}}, step=4)
  write(tmp_path / "a", "a", {"test_error": 0.25}, {"test": {"split": "test"}})
  write(tmp_path / "a", "a", {"knn_error": 0.125}, {"knn": {"k": 20}})
  write(tmp_path / "b", "b", {"test_error": 0.75}, {"test": {"split": "test"}}, branch=8)
  report.write(tmp_path, tmp_path / "table.md", mean=True)
  assert (tmp_path / "table.md").read_text() == (
    "* `test`: split test\n"
    "* `knn`: k 20\n"
    "\n"
    "| run | model | test error, % | knn error, % |\n"
    "| --- | --- | ---: | ---: |\n"
    "| a | ViT | 25.00 | 12.50 |\n"
    "| b@8 | ViT | 75.00 |  |\n"
    "| mean of 2 |  | 50.00 |  |\n"
  )


def test_a_report_says_which_numbers_are_not_comparable(tmp_path):
  write(tmp_path / "a", "a", {"test_error": 0.5}, {"test": {"split": "test"}})
  write(tmp_path / "b", "b", {"test_error": 0.5}, {"test": {"split": "train"}})
  text = report.markdown(report.read(tmp_path), ["test_error"], mean=False)
  assert "* `test` (not comparable with the others: b): split train" in text


def test_many_errors_of_an_evaluator_are_reported_by_their_means(tmp_path):
  metrics = {f"c_kind{i}_error": 0.5 for i in range(9)} | {"c_mean19_error": 0.5, "c_loss": 1.0}
  write(tmp_path / "a", "a", metrics, {"c": {}})
  rows = report.read(tmp_path)
  assert report.columns(rows, None) == ["c_mean19_error"]
  assert report.columns(rows, "c_kind[12]_error") == ["c_kind1_error", "c_kind2_error"]


def test_a_report_as_csv_keeps_the_values(tmp_path):
  write(tmp_path / "a", "a", {"test_error": 1 / 3}, {"test": {}})
  report.write(tmp_path, tmp_path / "table.csv")
  assert (tmp_path / "table.csv").read_text() == f"run,model,test_error\na,ViT,{1 / 3}\n"


def test_a_report_without_anything_to_report_says_so(tmp_path):
  with pytest.raises(UserError, match="no measurements.jsonl with a measurement below"):
    report.write(tmp_path, None)
  write(tmp_path / "a", "a", {"test_error": 0.5}, {})
  with pytest.raises(UserError, match="matches none of test_error"):
    report.write(tmp_path, None, "loss")
  with pytest.raises(UserError, match="give a .md or a .csv file"):
    report.write(tmp_path, tmp_path / "table.txt")
