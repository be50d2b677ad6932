"""Mixing and repeated augmentation through the trainer."""

import jax
import numpy as np
import pytest
from training import SYNTHETIC, final_state, finish, start, tiny, write_config

from vit_jax import config as config_lib
from vit_jax import job, train
from vit_jax.data import mixing
from vit_jax.errors import UserError

MIXING = {"mixup": 0.8, "cutmix": 1.0}

# A head of zeros would give every batch the same loss at first.
MODEL = {"name": "ViT-mu/8", "head_zeroinit": False}


def short(**changes):
  base = {"model": MODEL, "optimizer": {"learning_rate": 0.01}}
  return tiny(branches=(), total_steps=4, cooldown=0.0, **(base | changes))


def losses_of(config, steps=4):
  built = job.build(config, "t")
  state, out, batches = built.create_state(), [], built.batches(0)
  for _ in range(steps):
    state, metrics = built.train_step(state, next(batches))
    out.append(float(metrics["loss"]))
  return out


def test_the_step_takes_the_gradient_of_the_mixed_batch():
  """That of a batch that is mixed outside, with the key of (seed, step)."""
  built = job.build(short(mixing=MIXING), "t")
  state, batches = built.create_state(), built.batches(0)
  for step in range(3):
    batch = next(batches)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), step), 2**31 - 1)
    mixed = mixing.make(mixing.Mixing(**MIXING), 10)(batch, key, step)
    out = built.model.apply(state.variables, mixed["image"], train=False)
    expected = built.loss_fn(out.logits, mixed["label"]).mean()
    state, metrics = built.train_step(state, batch)
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)


def test_accumulation_changes_no_mixture():
  whole = losses_of(short(mixing=MIXING))
  parts = losses_of(short(mixing=MIXING, accumulate=4))
  np.testing.assert_allclose(parts, whole, rtol=1e-5)
  assert np.abs(np.subtract(whole, losses_of(short()))).min() > 1e-3


def test_switched_off_it_is_the_run_without():
  plain = short(model=MODEL | {"dropout": 0.1})
  off = losses_of(short(model=plain.model.to_dict(), mixing=MIXING | {"until": 0}))
  np.testing.assert_allclose(off, losses_of(plain), rtol=1e-6)


def test_a_mixed_run_with_repeats_resumes_bit_for_bit(tmp_path):
  changes = dict(mixing=MIXING | {"until": 6}, checkpoint_every=3)
  changes["data"] = dict(name=SYNTHETIC, split="train[:64]", num_threads=1, repeats=3)
  train.run(tiny(**changes, branches=(4, 8)), tmp_path / "a", "t")
  train.run(tiny(**changes, branches=(4,)), tmp_path / "b", "t")
  train.run(tiny(**changes, branches=(4, 8)), tmp_path / "b", "t")
  config = tiny(**changes, branches=(4, 8))
  a, b = (final_state(tmp_path / d / "branches/8", config) for d in "ab")
  assert jax.tree.all(jax.tree.map(np.array_equal, a, b))


def test_a_batch_has_its_images_as_often_as_the_config_says():
  data = dict(name=SYNTHETIC, train="value_range(-1, 1)", num_threads=1)
  for repeats in (1, 4):
    built = job.build(short(data=data | {"repeats": repeats}), "t")
    images = np.asarray(next(built.batches(0))["image"])
    assert len(np.unique(images.reshape(32, -1), axis=0)) == 32 // repeats
    np.testing.assert_array_equal(images[: 32 // repeats], images[-32 // repeats :])


def test_eight_devices_mix_as_one_does(tmp_path):
  flags = ["--config.mixing.mixup=0.8", "--config.mixing.cutmix=1.0"]
  flags += ["--config.model.dropout=0.0", "--config.model.head_zeroinit=False"]
  flags += ["--config.log_every=1", "--config.branches=4", "--config.data.repeats=2"]
  config, found = write_config(tmp_path), []
  for devices in (1, 8):
    out = finish(start(config, tmp_path / str(devices), *flags, devices=devices))
    lines = [x.split() for x in out.splitlines() if "images/s" in x]
    found.append([float(words[words.index("loss") + 1]) for words in lines])
  assert len(found[0]) == 4
  np.testing.assert_allclose(found[1], found[0], atol=2e-4)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"mixing": {"kind": "tim"}}, "unknown config.mixing.kind 'tim'"),
    ({"mixing": {"prob": 2.0}}, "config.mixing.prob=2.0 must lie in 0..1"),
    ({"data": {"repeats": 0}}, "config key 'data.repeats' must be at least 1, got 0"),
  ],
)
def test_mistakes_show_before_any_step(changes, message):
  with pytest.raises(UserError, match=message):
    job.build(short(**changes), "t")


def test_the_hash_covers_them_and_old_runs_keep_theirs():
  base = config_lib.config_hash(tiny())
  for changes in (
    {"mixing": {"mixup": 0.2}},
    {"mixing": {"cutmix": 0.2}},
    {"mixing": {"mixup": 0.2, "until": 5}},
    {"data": {"repeats": 3}},
  ):
    assert config_lib.config_hash(tiny(**changes)) != base
  old = config_lib.to_json(tiny())
  del old["mixing"], old["data"]["repeats"]
  assert config_lib.differences(old, config_lib.to_json(tiny())) == []
