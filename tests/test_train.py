import dataclasses
import shutil

import jax
import numpy as np
import pytest
from training import StopAt, assert_same, final_state, results, tiny

from vit_jax import job, measurements, signals, train
from vit_jax.checkpoint import Checkpoints
from vit_jax.errors import UserError


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """One uninterrupted run: a trunk of 9 steps and branches of 8 and 12."""
  workdir = tmp_path_factory.mktemp("whole")
  train.run(tiny(), workdir, "t")
  return workdir


def test_what_a_run_leaves(whole):
  found = results(whole)
  assert [(m["branch"], m["step"], m["final"]) for m in found] == [
    (None, 6, False),
    (12, 12, True),
    (8, 8, True),
  ]
  last = found[1]
  assert last["images_seen"] == 12 * 32
  assert last["train_flops"] == 3 * last["flops_per_image"] * 12 * 32
  assert last["metrics"]["test_examples"] == 100
  assert Checkpoints(whole, read_only=True).steps() == [6, 8, 9]


def test_doing_it_again_does_nothing(whole, capsys):
  before = {p: p.stat().st_mtime_ns for p in whole.rglob("*") if p.is_file()}
  train.run(tiny(), whole, "t")
  after = {p: p.stat().st_mtime_ns for p in whole.rglob("*") if p.is_file()}
  changed = {p.name for p in before.keys() | after.keys() if before.get(p) != after.get(p)}
  assert changed <= {".lock"}


@pytest.mark.parametrize(("stop", "step"), [(1, 1), (5, 5), (10, 6), (15, 11)])
def test_resume_is_bit_exact(whole, tmp_path, monkeypatch, stop, step):
  """Stopped in the trunk (1, 5), at the start of the branch of 8, in that of 12; started again."""
  from contextlib import nullcontext

  with monkeypatch.context() as m:
    m.setattr(signals, "catch", lambda: nullcontext(StopAt(stop)))
    with pytest.raises(signals.Interrupted, match=f"saved at step {step};"):
      train.run(tiny(), tmp_path, "t")
  train.run(tiny(), tmp_path, "t")
  assert results(tmp_path) == results(whole)
  for part in (".", "branches/8", "branches/12"):
    assert_same(final_state(tmp_path / part, tiny()), final_state(whole / part, tiny()))


def test_another_seed_gives_another_state(whole, tmp_path):
  """The bit-exact comparison can fail."""
  train.run(tiny(seed=1), tmp_path, "t", None)
  with pytest.raises(AssertionError):
    assert_same(final_state(tmp_path, tiny()), final_state(whole, tiny()))


def test_a_branch_alone_gives_the_same_result(whole, tmp_path):
  shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
  shutil.rmtree(tmp_path / "branches")
  train.run(tiny(), tmp_path, "t", branch=12)
  assert not (tmp_path / "branches/8").exists()
  assert_same(
    final_state(tmp_path / "branches/12", tiny()), final_state(whole / "branches/12", tiny())
  )


def test_a_longer_trunk_redoes_nothing(whole, tmp_path):
  shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
  kept = results(tmp_path)
  longer = tiny(branches=(8, 12, 16))
  train.run(longer, tmp_path, "t")
  new = [m for m in results(tmp_path) if m not in kept]
  assert [(m["branch"], m["step"]) for m in new] == [(None, 12), (16, 16)]
  fresh = tmp_path / "fresh"
  train.run(longer, fresh, "t")
  assert_same(
    final_state(tmp_path / "branches/16", longer), final_state(fresh / "branches/16", longer)
  )


def test_a_branch_between_starts_from_an_earlier_checkpoint(whole, tmp_path):
  shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
  more = tiny(branches=(8, 10, 12))
  train.run(more, tmp_path, "t")
  fresh = tmp_path / "fresh"
  train.run(more, fresh, "t")
  assert_same(final_state(tmp_path / "branches/10", more), final_state(fresh / "branches/10", more))


def test_a_changed_config_is_refused(whole):
  with pytest.raises(UserError, match="batch_size: 32 -> 64"):
    train.run(tiny(batch_size=64), whole, "t")


def test_checkpoints_without_their_config_are_refused(whole, tmp_path):
  shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
  (tmp_path / "config.json").unlink()
  with pytest.raises(UserError, match="made under another config"):
    train.run(tiny(seed=1, branches=(8, 12, 16)), tmp_path, "t")


def test_other_images_are_refused(whole, tmp_path):
  shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
  built = train.prepare(tiny(branches=(8, 12, 16)), tmp_path, "t")
  built.__dict__["fingerprint"] = dataclasses.replace(built.fingerprint, sha256="another")
  with pytest.raises(UserError, match="made from other images"):
    train.execute(built, tmp_path, signals.StopFlag())


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"schedule": {"name": "cosine"}, "total_steps": 20}, "cannot be the trunk"),
    ({"cooldown_shape": "linaer"}, "linear"),
    ({"evaluators": {}}, "evaluators is empty"),
    ({"evaluators": {"test": {"type": "classification", "split": "tset"}}}, "tset"),
    ({"evaluators": {"test": {"type": "classification", "every": -1}}}, "every=-1"),
    ({"evaluators": {"test": {"type": "classification", "evry": 1}}}, "did you mean 'every'"),
    ({"data": {"eval": "resize(32)"}}, "32 x 32 pixels.*image_size is 16"),
    ({"data": {"eval": "valu_range(-1, 1)"}}, "value_range"),
  ],
)
def test_mistakes_show_before_any_step(tmp_path, changes, message):
  with pytest.raises(UserError, match=message):
    train.prepare(tiny(**changes), tmp_path, "t")
  assert list(tmp_path.iterdir()) == []


def test_branch_mistakes(whole, tmp_path):
  with pytest.raises(UserError, match=r"--branch 9 is none of config.branches=\(8, 12\)"):
    train.run(tiny(), whole, "t", branch=9)
  with pytest.raises(UserError, match="holds no trunk"):
    train.run(tiny(), tmp_path, "t", branch=8)
  with pytest.raises(UserError, match="only come to step 9: run the trunk on first"):
    train.run(tiny(branches=(8, 12, 40)), whole, "t", branch=40)


def test_nan_stops_at_its_step_and_keeps_the_last_checkpoint(tmp_path):
  """A learning rate that rises until it breaks the model, after the branch of 4 has left."""
  config = tiny(
    optimizer={"name": "sgd", "learning_rate": 1e30, "clip_norm": 0.0},
    schedule={"name": "constant", "warmup": 10**9},
    checkpoint_every=1,
    branches=(4, 400),
    cooldown=0.5,
  )
  with pytest.raises(train.Diverged, match=r"step \d+.*its checkpoint at step \d+ is kept") as e:
    train.run(config, tmp_path, "t")
  checkpoints = Checkpoints(tmp_path, read_only=True)
  steps, target = checkpoints.steps(), job.build(config, "t").target
  assert steps
  assert max(steps) == e.value.last_good
  for step in steps:
    state = checkpoints.restore(step, target)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(jax.device_get(state.params)))


def test_branches_that_left_before_the_trunk_broke_are_trained(tmp_path, monkeypatch):
  segment = train._train_segment

  def breaks(job, directory, window, stop, stop_flag, trace, trunk=None):
    if trunk is None:
      segment(job, directory, window, 7, stop_flag, trace)
      raise train.Diverged("step 8: loss nan", 6)
    segment(job, directory, window, stop, stop_flag, trace, trunk)

  monkeypatch.setattr(train, "_train_segment", breaks)
  with pytest.raises(train.Diverged, match="step 8"):
    train.run(tiny(), tmp_path, "t")
  assert [(m["branch"], m["final"]) for m in results(tmp_path)] == [(None, False), (8, True)]


def test_a_damaged_checkpoint_is_named(whole, tmp_path):
  shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
  for file in (tmp_path / "checkpoints/9/params").rglob("*"):
    if file.is_file():
      file.write_bytes(b"")
  with pytest.raises(UserError, match="cannot read checkpoint .*9 .*to continue from step 8"):
    train.run(tiny(branches=(8, 12, 16)), tmp_path, "t")


def test_a_small_run_learns(tmp_path):
  """On an easy set without label noise; chance is an error of 0.9 and a loss of log(10)."""
  config = tiny(
    branches=(),
    total_steps=200,
    cooldown=0.3,
    batch_size=64,
    checkpoint_every=1000,
    model={"name": "ViT-w32d2/4", "pool": "gap"},
    data={"name": "synthetic(glyphs=3, label_noise=0, train_size=8192, test_size=1000)"},
    optimizer={"learning_rate": 3e-3},
    schedule={"warmup": 10, "timescale": 500},
    evaluators={"test": {"type": "classification"}},
  )
  train.run(config, tmp_path, "t")
  (last,) = measurements.read(tmp_path)
  assert last["final"]
  assert last["metrics"]["test_error"] < 0.5
  assert last["metrics"]["test_loss"] < 0.6 * np.log(10)
