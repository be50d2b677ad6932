import pytest
from ml_collections import ConfigDict

from vit_jax import config as config_lib
from vit_jax.errors import UserError


def test_partial_config_gets_every_default():
  config = config_lib.resolve({"batch_size": 64, "model": {"name": "ViT-S/16"}})
  assert config.batch_size == 64
  assert config.model.name == "ViT-S/16"
  assert config.schedule.timescale == 10_000


@pytest.mark.parametrize(
  ("changes", "wrong", "near"),
  [
    ({"batchsize": 3}, "batchsize", "batch_size"),
    ({"optimizer": {"learningrate": 1.0}}, "optimizer.learningrate", "optimizer.learning_rate"),
    ({"learning_rate": 1.0}, "learning_rate", "optimizer.learning_rate"),
    ({"model": {"nmae": "x"}}, "model.nmae", "model.name"),
  ],
)
def test_unknown_key_names_the_nearest(changes, wrong, near):
  with pytest.raises(UserError, match=f"'{wrong}'.*{near}") as e:
    config_lib.resolve(changes)
  assert "\n" not in str(e.value)


def test_wrong_type_is_refused():
  with pytest.raises(UserError, match="batch_size.*int.*'many'"):
    config_lib.resolve({"batch_size": "many"})
  with pytest.raises(UserError, match="'model' is a group"):
    config_lib.resolve({"model": "ViT-S/16"})


def test_rungs_are_laid_over_the_base():
  config = config_lib.resolve(
    {"batch_size": 64, "ladder": {"a": {"model": {"width": 32}}, "b": {"batch_size": 16}}}
  )
  rungs = config_lib.rungs(config)
  assert (rungs["a"].model.width, rungs["a"].batch_size) == (32, 64)
  assert (rungs["b"].model.width, rungs["b"].batch_size) == (None, 16)
  assert config_lib.rungs(config_lib.resolve({})).keys() == {""}
  with pytest.raises(UserError, match="optimizr"):
    config_lib.rungs(config_lib.resolve({"ladder": {"a": {"optimizr": {}}}}))


def test_the_command_line_has_the_last_word_over_rungs():
  config = config_lib.resolve({"batch_size": 64, "ladder": {"a": {"batch_size": 32, "seed": 1}}})
  assert config_lib.rungs(config)["a"].batch_size == 32
  rung = config_lib.rungs(config, ["batch_size"])["a"]
  assert (rung.batch_size, rung.seed) == (64, 1)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"ladder": {"a": {"ladder": {}}}}, "cannot have a ladder"),
    ({"ladder": ({"batch_size": 1},)}, "dict of name"),
    ({"ladder": {"a/b": {}}}, "letters, digits"),
    ({"evaluators": 3}, "dict of name"),
    ({"evaluators": {"test": 3}}, "dict of name"),
    ({"log_every": 0}, "log_every.*at least 1"),
    ({"accumulate": 0}, "accumulate.*at least 1"),
    ({"data": {"num_threads": -1}}, "num_threads.*at least 0"),
  ],
)
def test_values_out_of_range(changes, message):
  with pytest.raises(UserError, match=message):
    config_lib.rungs(config_lib.resolve(changes))


def test_hash_and_differences_follow_what_is_computed():
  base = config_lib.resolve({"total_steps": 10})
  same = config_lib.resolve({"total_steps": 10, "log_every": 7})
  other = config_lib.resolve({"total_steps": 10, "seed": 1})
  assert config_lib.config_hash(base) == config_lib.config_hash(same)
  assert config_lib.config_hash(base) != config_lib.config_hash(other)
  assert config_lib.differences(config_lib.to_json(base), config_lib.to_json(same)) == []
  assert config_lib.differences(config_lib.to_json(base), config_lib.to_json(other)) == [
    "seed: 0 -> 1"
  ]


@pytest.mark.parametrize(("branches", "free"), [((5,), True), ((), False)])
def test_only_a_trunk_may_change_its_length(branches, free):
  def config(steps):
    return config_lib.to_json(config_lib.resolve({"total_steps": steps, "branches": branches}))

  changed = config_lib.differences(config(10), config(20))
  assert changed == ([] if free else ["total_steps: 10 -> 20"])


def test_config_files_may_start_from_the_defaults():
  config = config_lib.default()
  config.batch_size = 3
  assert isinstance(config, ConfigDict)
  assert config_lib.resolve(config).batch_size == 3
