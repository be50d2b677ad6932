import hashlib
import shutil
from contextlib import nullcontext

import jax
import numpy as np
import pytest
from training import StopAt, final_state, tiny

from vit_jax import config as config_lib
from vit_jax import initial, job, measurements, models, pretrained, signals, train
from vit_jax.errors import UserError
from vit_jax.optim import BACKBONE


def same(a, b):
  return jax.tree.all(jax.tree.map(np.array_equal, a, b))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  """A run whose weights others start from."""
  workdir = tmp_path_factory.mktemp("source")
  train.run(tiny(seed=5, branches=(8,)), workdir, "source")
  return workdir


@pytest.fixture
def weights(tmp_path, monkeypatch):
  """A file, with a reader in place of the real one: (path, parameters, calls of the reader)."""
  path = tmp_path / "weights.npz"
  path.write_bytes(b"weights of another project")
  params = jax.device_get(job.build(tiny(seed=9), "t").create_state().params)
  calls = []

  def load(path, model, image_size=None, **options):
    calls.append((path, options["head"], options["interpolation"]))
    options["log"]("reads the weights")
    return {"params": params}

  monkeypatch.setattr(pretrained, "load", load)
  return path, params, calls


def start_of(config):
  """Returns the state that a run of this config has at its first step."""
  built = job.build(config, "t")
  found = initial.read(config, built.model, jax.random.key(config.seed), lambda _: None)
  return initial.place(found, built.create_state()), built, found


def test_a_file_is_placed_as_the_state_wants_it(weights):
  path, params, calls = weights
  state, built, found = start_of(tiny(init_from=str(path), init_head="fresh"))
  assert same(state.params, params)
  assert found.sha256 == hashlib.sha256(b"weights of another project").hexdigest()
  assert calls == [(path, "fresh", "bicubic")]
  wanted = jax.tree.map(lambda x: x.sharding, built.target.params)
  assert jax.tree.map(lambda x: x.sharding, state.params) == wanted


def test_a_run_that_is_resumed_does_not_read_the_file_again(weights, tmp_path, monkeypatch, capsys):
  path, params, calls = weights
  workdir, config = tmp_path / "run", tiny(init_from=str(path), optimizer={"learning_rate": 1e-30})

  with monkeypatch.context() as m:
    m.setattr(signals, "catch", lambda: nullcontext(StopAt(5)))
    with pytest.raises(signals.Interrupted):
      train.run(config, workdir, "t")
  assert f"starts from the weights in {path}" in capsys.readouterr().out
  read = len(calls)
  assert read == 2  # before anything is trained, and when the state is made
  path.write_bytes(b"other weights")
  train.run(config, workdir, "t")
  assert len(calls) == read
  assert "continues at step 5" in capsys.readouterr().out
  sha256 = hashlib.sha256(b"weights of another project").hexdigest()
  for directory in (workdir, workdir / "branches/8", workdir / "branches/12"):
    assert {m["extra"]["init_sha256"] for m in measurements.read(directory)} == {sha256}
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
    final_state(workdir, config).params,
    params,
  )


def test_a_branch_whose_cooldown_is_the_whole_run_starts_from_the_weights(weights, tmp_path):
  path, params, _ = weights
  config = tiny(
    init_from=str(path), branches=(4, 8), cooldown=4.0, optimizer={"learning_rate": 1e-30}
  )
  train.run(config, tmp_path / "run", "t")
  branch = tmp_path / "run/branches/4"
  near = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6)  # noqa: E731
  jax.tree.map(near, final_state(branch, config).params, params)
  # Alone, as on another machine, where the file may be another one.
  shutil.rmtree(branch)
  train.run(config, tmp_path / "run", "t", branch=4)
  jax.tree.map(near, final_state(branch, config).params, params)
  shutil.rmtree(branch)
  path.write_bytes(b"other weights")
  with pytest.raises(UserError, match="other weights than those that the trunk"):
    train.run(config, tmp_path / "run", "t", branch=4)


def test_a_file_of_another_project_is_read(source, tmp_path):
  last = final_state(source, tiny(seed=5, branches=(8,)))
  path = tmp_path / "vit.safetensors"
  model = job.build(tiny(), "t").model
  pretrained.export(path, model, {"params": last.params})
  state, _, found = start_of(tiny(init_from=str(path)))
  assert same(state.params, last.params)
  assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_run_gives_its_last_weights_only(source):
  config = tiny(init_from=str(source))
  state, _, found = start_of(config)
  last = final_state(source, tiny(seed=5, branches=(8,)))
  assert same(state.params, last.params)
  assert int(last.step) == 6
  assert int(state.step) == 0
  assert not any(np.any(x) for x in jax.tree.leaves(state.opt_state))
  branch = start_of(tiny(init_from=str(source / "branches/8")))
  assert same(
    branch[0].params, final_state(source / "branches/8", tiny(seed=5, branches=(8,))).params
  )
  assert len({found.sha256, branch[2].sha256}) == 2


def test_a_fresh_head_is_the_seeds_and_the_rest_the_runs(source):
  state, built, _ = start_of(tiny(init_from=str(source), init_head="fresh", seed=7))
  last = final_state(source, tiny(seed=5, branches=(8,)))
  key = jax.random.key(7)
  new = built.model.init(key, np.zeros((1, 16, 16, 3), np.float32))["params"]
  assert same(state.params["head"], new["head"])
  assert same({**state.params, "head": 0}, {**last.params, "head": 0})


def test_scan_may_differ(source):
  scanned = tiny(init_from=str(source), model={"name": "ViT-mu/8", "dropout": 0.1, "scan": True})
  state, _, _ = start_of(scanned)
  last = final_state(source, tiny(seed=5, branches=(8,)))
  unstacked = models.stacking.unstack(jax.device_get(state.params))
  assert same(unstacked, last.params)


def test_positions_are_resized(source):
  config = tiny(init_from=str(source))
  model = models.create("ViT-mu/8", num_classes=10, image_size=32)
  lines = []
  found = initial.read(config, model, jax.random.key(0), lines.append)
  assert found.variables["params"]["pos_embedding"].shape == (1, 17, 32)
  assert "resized params/pos_embedding: 1x5x32 to 1x17x32, bicubic" in lines
  assert not any("warning" in line for line in lines)  # the GELU is that of the run


def test_a_probe_trains_the_head_alone(source, tmp_path):
  config = tiny(init_from=str(source), init_head="fresh", freeze=(BACKBONE,), branches=(8,))
  train.run(config, tmp_path, "t")
  last = final_state(source, tiny(seed=5, branches=(8,)))
  got = final_state(tmp_path / "branches/8", config)
  assert same({**got.params, "head": 0}, {**last.params, "head": 0})
  assert np.any(got.params["head"]["kernel"])
  assert jax.tree.leaves(got.opt_state)[1].size < 1000


def test_a_frozen_run_resumes_bit_for_bit(source, tmp_path, monkeypatch):
  config = tiny(init_from=str(source), freeze=("encoder/.*", "cls"))
  train.run(config, tmp_path / "whole", "t")

  with monkeypatch.context() as m:
    m.setattr(signals, "catch", lambda: nullcontext(StopAt(5)))
    with pytest.raises(signals.Interrupted):
      train.run(config, tmp_path / "halves", "t")
  train.run(config, tmp_path / "halves", "t")
  a, b = (final_state(tmp_path / d / "branches/12", config) for d in ("whole", "halves"))
  assert same(a, b)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"init_from": ""}, "starts from pre-trained weights: give --config.init_from"),
    ({"init_from": "nowhere.npz"}, "nowhere.npz is not there"),
    ({"init_from": "{tmp}"}, "holds no checkpoint: give a run directory or a file"),
    ({"init_from": "{source}/branches"}, "holds no checkpoint: give one of its runs.*branches/8"),
    ({"init_head": "drop"}, "unknown config.init_head 'drop': choose one of fresh, keep"),
    ({"init_interpolation": "bicubc"}, "unknown interpolation 'bicubc'"),
    ({"freeze": ("heat/.*",)}, "config.freeze pattern 'heat/.*' matches no parameter"),
    (
      {"init_from": "{source}", "model": {"name": "ViT-Ti/8"}},
      "params/cls has shape 1x1x32.*another width",
    ),
    (
      {"init_from": "{source}", "model": {"name": "ViT-mu/8", "depth": 2}},
      "block_1/.*is not in the file: another variant",
    ),
    (
      {"init_from": "{source}", "model": {"name": "ViT-mu/8", "pool": "gap"}},
      "of 1 token before the patches, the model has 0",
    ),
  ],
)
def test_mistakes_show_before_any_step(source, tmp_path, changes, message):
  if "init_from" in changes:
    changes = changes | {"init_from": changes["init_from"].format(tmp=tmp_path, source=source)}
  workdir = tmp_path / "run"
  with pytest.raises(UserError, match=message) as error:
    train.prepare(tiny(**changes), workdir, "t")
  assert "\n" not in str(error.value)
  assert not workdir.exists()


def test_other_classes_are_named_as_the_cause(source):
  model = models.create("ViT-mu/8", num_classes=7, image_size=16)
  with pytest.raises(UserError, match=r'head/bias has 10 classes .*the model 7 .*head="fresh"'):
    initial.read(tiny(init_from=str(source)), model, jax.random.key(0), lambda _: None)


def test_the_hash_covers_them_and_old_runs_keep_theirs():
  base = config_lib.config_hash(tiny())
  for changes in (
    {"init_from": "a"},
    {"init_head": "fresh"},
    {"init_interpolation": "bilinear"},
    {"freeze": ("cls",)},
    {"optimizer": {"layer_decay": 0.9}},
    {"optimizer": {"lr_multipliers": (("cls", 2.0),)}},
  ):
    assert config_lib.config_hash(tiny(**changes)) != base
  old = config_lib.to_json(tiny())
  for key in ("init_from", "init_head", "init_interpolation", "freeze"):
    del old[key]
  del old["optimizer"]["layer_decay"], old["optimizer"]["lr_multipliers"]
  assert config_lib.differences(old, config_lib.to_json(tiny())) == []
