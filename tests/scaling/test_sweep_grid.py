import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling.launch import grid, jobs
from vit_jax import rundir
from vit_jax.errors import UserError

LADDER = """
from ml_collections import ConfigDict
def get_config():
  return ConfigDict(dict(
      branches=(8, 12), cooldown=0.25, model=dict(name="ViT-mu/8"),
      ladder=dict(a=dict(), b=dict(model=dict(width=24), branches=(8,)))))
"""

scalars = st.one_of(
  st.text(max_size=40),
  st.integers(),
  st.floats(allow_nan=False),
  st.booleans(),
  st.none(),
  st.tuples(st.integers(), st.integers()),
)


@pytest.fixture
def ladder(tmp_path):
  path = tmp_path / "ladder.py"
  path.write_text(LADDER)
  return str(path)


def names(config, tmp_path, *axes, overrides=()):
  runs = grid.expand(config, tmp_path / "out", [grid.axis(a) for a in axes], overrides)
  return [run.name for run in runs]


@pytest.mark.parametrize(
  ("text", "values"),
  [
    ("seed=0,1", ("0", "1")),
    ("model.name=ViT-S/16", ("ViT-S/16",)),
    ("branches=(8,12),(8,)", ("(8,12)", "(8,)")),
    ("data.train=flip|random_crop(16, pad=2),flip", ("flip|random_crop(16, pad=2)", "flip")),
    ("data.name='a,b',c", ("'a,b'", "c")),
  ],
)
def test_an_axis_is_read(text, values):
  assert grid.axis(text) == grid.Axis(text.split("=")[0], values)


@pytest.mark.parametrize("text", ["seed", "=1", "seed=", "seed=1,,2"])
def test_what_is_no_axis(text):
  with pytest.raises(UserError, match="write KEY=VALUE"):
    grid.axis(text)


def test_runs_are_rungs_times_points(ladder, tmp_path):
  assert names(ladder, tmp_path) == ["a", "b"]
  assert names(ladder, tmp_path, "seed=0,1", "optimizer.learning_rate=1e-3") == [
    "a,optimizer.learning_rate=0.001,seed=0",
    "b,optimizer.learning_rate=0.001,seed=0",
    "a,optimizer.learning_rate=0.001,seed=1",
    "b,optimizer.learning_rate=0.001,seed=1",
  ]


def test_a_name_does_not_depend_on_how_the_grid_is_written(ladder, tmp_path):
  one = names(ladder, tmp_path, "seed=0,1", "optimizer.learning_rate=1e-3")
  other = names(ladder, tmp_path, "optimizer.learning_rate=0.001", "seed=1,0")
  assert sorted(one) == sorted(other)


def test_a_value_wins_over_a_rung_and_reaches_the_config(ladder, tmp_path):
  runs = grid.expand(ladder, tmp_path / "out", [grid.axis("branches=(20,40)")], ["--config.seed=3"])
  assert [run.name for run in runs] == ["a,branches=20+40", "b,branches=20+40"]
  for run in runs:
    assert tuple(run.config.branches) == (20, 40)
    assert run.config.seed == 3
    assert run.plan.trunk_steps == 30
    assert run.directory == tmp_path / "out" / run.name
    assert {"--config.branches=(20,40)", "--config.seed=3"} < set(run.flags)


def test_a_config_without_a_ladder(tmp_path):
  path = tmp_path / "one.py"
  path.write_text("def get_config():\n  return dict(total_steps=5)\n")
  (run,) = grid.expand(str(path), tmp_path / "out")
  assert (run.name, run.label, run.directory) == ("", "out", tmp_path / "out")
  (job,) = jobs.of_runs([run])
  assert not job.is_trunk
  assert "--run" not in job.command()
  assert names(str(path), tmp_path, "model.name=ViT-S/16,ViT-B/16") == [
    "model.name=ViT-S~16",
    "model.name=ViT-B~16",
  ]


@pytest.mark.parametrize(
  ("axes", "message"),
  [
    (["seed=0", "seed=1"], "names seed twice"),
    (["optimizer.learning_rate=1e-3,0.001"], "a,optimizer.learning_rate=0.001 twice"),
    (["optimiser.learning_rate=1"], "unknown config key 'optimiser.learning_rate'"),
    (["seed=x"], "seed"),
    (["cooldown=0"], "needs config.cooldown"),
  ],
)
def test_mistakes_in_a_grid(ladder, tmp_path, axes, message):
  with pytest.raises(UserError, match=message):
    names(ladder, tmp_path, *axes)


def test_a_run_is_not_trained_twice_under_two_names(ladder, tmp_path):
  with pytest.raises(UserError, match="a,branches=8,model.width=16 and b,.* are the same run"):
    names(ladder, tmp_path, "model.width=16", "branches=(8,)")


def test_a_directory_with_another_config_is_refused(ladder, tmp_path):
  (run, _) = grid.expand(ladder, tmp_path / "out")
  run.directory.mkdir(parents=True)
  rundir.write_config(run.directory, run.config)
  with pytest.raises(UserError, match="seed: 0 -> 1"):
    names(ladder, tmp_path, overrides=["--config.seed=1"])


@given(
  st.dictionaries(st.sampled_from(["k.x", "k.y", "z"]), st.tuples(scalars, scalars), min_size=1)
)
def test_names_differ_where_values_do(points):
  one = grid.run_name("rung", {key: a for key, (a, _) in points.items()})
  other = grid.run_name("rung", {key: b for key, (_, b) in points.items()})
  same = all(repr(a) == repr(b) or a is b for a, b in points.values())
  # A key has values of one type, so that 1 and "1" do not meet.
  if all(type(a) is type(b) for a, b in points.values()):
    assert (one == other) == same
  for name in (one, other):
    assert len(name) <= grid.LONGEST_NAME
    assert re.fullmatch(r"[\w.,=%~+-]+", name)
