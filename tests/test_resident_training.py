"""Runs whose images live on the devices."""

import jax
import numpy as np
import pytest
from training import SYNTHETIC, finish, start, tiny, write_config

from vit_jax import chunks, job, signals, train
from vit_jax import config as config_lib
from vit_jax.checkpoint import Checkpoints
from vit_jax.data import order
from vit_jax.data.sources import ArraySource
from vit_jax.errors import UserError

DATA = {"name": SYNTHETIC, "split": "train[:96]", "num_threads": 1, "resident": True}
MODEL = {"name": "ViT-mu/8", "head_zeroinit": False, "dropout": 0.1}


def short(data=None, **changes):
  base = {"model": MODEL, "optimizer": {"learning_rate": 0.01}, "data": DATA | (data or {})}
  return tiny(
    **{"branches": (), "total_steps": 6, "cooldown": 0.0, "log_every": 6, **base, **changes}
  )


def losses_of(config, counts):
  """Of as many steps, in chunks."""
  built = job.build(config, "t")
  state, feed, out = built.create_state(), built.feed(0), []
  for count in counts:
    state, metrics = built.train_step(state, feed(count))
    out.extend(np.atleast_1d(metrics["loss"])[:count])
  return np.array(out), jax.device_get(state)


def last_state(directory):
  checkpoints = Checkpoints(directory, read_only=True)
  state = checkpoints.weights(checkpoints.latest())
  checkpoints.close()
  return state


def equal(a, b):
  return jax.tree.all(jax.tree.map(np.array_equal, a, b))


@pytest.mark.parametrize(
  "changes",
  [
    {"data": {"repeats": 3}, "mixing": {"mixup": 0.8, "cutmix": 1.0, "until": 4}},
    {"accumulate": 4, "ema": {"decay": 0.9}, "sam": {"kind": "sam", "rho": 0.05, "m": 8}},
  ],
)
def test_a_resident_run_is_the_run_on_the_host(changes):
  data = changes.pop("data", {})
  there, state = losses_of(short(data, **changes), (1, 3, 2))
  here, other = losses_of(short(data | {"resident": False}, **changes), [1] * 6)
  np.testing.assert_allclose(there, here, rtol=2e-5)
  assert np.ptp(here) > 0.01
  assert int(state.step) == int(other.step) == 6


def test_chunks_change_no_bit():
  _, whole = losses_of(short(), (6,))
  for counts in ((1,) * 6, (4, 2)):
    assert equal(losses_of(short(), counts)[1], whole)


def test_a_run_resumes_bit_for_bit_and_branches(tmp_path, monkeypatch):
  monkeypatch.setattr(chunks, "length", lambda seconds, most: most)
  changes = dict(data=DATA, checkpoint_every=3, log_every=4)
  train.run(tiny(**changes, branches=(4, 8)), tmp_path / "a", "t")
  monkeypatch.setattr(chunks, "length", lambda seconds, most: 1)
  train.run(tiny(**changes, branches=(4,)), tmp_path / "b", "t")
  train.run(tiny(**changes, branches=(4, 8)), tmp_path / "b", "t")
  a, b = (last_state(tmp_path / d / "branches/8") for d in "ab")
  assert equal(a, b)


def test_a_loss_that_is_not_finite_is_pinned_to_its_step(tmp_path, monkeypatch):
  monkeypatch.setattr(chunks, "length", lambda seconds, most: most)
  indices = order.Order.__call__

  def poisoned(self, positions):
    # Step 8, the middle of a chunk, takes the example whose label is no class.
    return np.where(positions // 32 == 7, 95, indices(self, positions) % 95)

  monkeypatch.setattr(order.Order, "__call__", poisoned)
  built = job.build(short(total_steps=12, log_every=3), "t")
  images, labels = built.source.read(np.arange(96))
  labels = np.where(np.arange(96) == 95, 99, labels)
  array = ArraySource(built.source.info, np.stack(list(images)), labels.astype(np.int32))
  monkeypatch.setattr("vit_jax.data.resident.cached", lambda *_: array)
  with pytest.raises(train.Diverged, match=r"step 8: loss nan"):
    train.execute(built, tmp_path, signals.StopFlag())


def test_eight_devices_and_fsdp_train_as_one_does(tmp_path):
  flags = ["--config.data.resident=True", "--config.log_every=2", "--config.branches=4"]
  flags += ["--config.model.dropout=0.0", "--config.model.head_zeroinit=False"]
  flags += ["--config.mixing.mixup=0.8", "--config.data.repeats=2"]
  config, found = write_config(tmp_path), []
  for devices, fsdp in ((1, 1), (8, 4)):
    more = [*flags, f"--config.mesh.fsdp={fsdp}"]
    out = finish(start(config, tmp_path / str(devices), *more, devices=devices))
    assert "images: 384 KiB per device" in out
    lines = [x.split() for x in out.splitlines() if "images/s" in x]
    found.append([float(words[words.index("loss") + 1]) for words in lines])
  assert len(found[0]) == 3
  np.testing.assert_allclose(found[1], found[0], atol=2e-4)


def test_chunks_end_where_something_is_due():
  assert chunks.to_next(0, at=(7,), every=(0, 10)) == 7
  assert chunks.to_next(7, at=(7, 100), every=(0, 10)) == 3
  assert chunks.to_next(10, at=(10,), every=(10, 4)) == 2
  assert chunks.length(1e-9, most=50) == 50
  assert chunks.length(100.0, most=50) == 1
  assert chunks.length(chunks.SECONDS / 10.5, most=50) == 10


@pytest.mark.parametrize(
  ("data", "message"),
  [
    ({"train": "inception_crop(16)"}, "inception_crop has no device version"),
    ({"train": "random_crop(64)"}, "16 x 16 pixels is smaller than size=64"),
    ({"repeats": 33}, "repeats=33 must lie in 1..32"),
  ],
)
def test_mistakes_show_before_any_step(data, message):
  with pytest.raises(UserError, match=message):
    job.build(short(data), "t")


def test_images_of_different_sizes_are_refused(monkeypatch):
  built = job.build(short(), "t")
  sizes = ArraySource(
    built.source.info,
    [np.zeros((k, k, 3), np.uint8) for k in (16, 17)] * 48,
    np.zeros(96, np.int32),
  )
  monkeypatch.setattr("vit_jax.data.resident.cached", lambda *_: sizes)
  with pytest.raises(UserError, match=r"different sizes.*config.data.resident=False"):
    built.resident.place(built.mesh)


def test_the_hash_covers_it_and_old_runs_keep_theirs():
  on, off = (tiny(data=DATA | {"resident": value}) for value in (True, False))
  assert config_lib.config_hash(on) != config_lib.config_hash(off)
  old = config_lib.to_json(off)
  del old["data"]["resident"]
  assert config_lib.differences(old, config_lib.to_json(off)) == []
