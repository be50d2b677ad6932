"""SAM in every part of the trainer: devices, optimisers, checkpoints, branches."""

from contextlib import nullcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from training import StopAt, assert_same, final_state, results, run_on_devices, tiny

from vit_jax import job, measurements, signals, train
from vit_jax.errors import UserError


def flat(tree):
  return {path: np.asarray(x) for path, x in flatten_dict(jax.device_get(tree), sep="/").items()}


# SGD, since Adam divides the rounding errors of tiny gradients by their own size; a head that is
# not zero, so that there is something to climb from the first step on. With dropout.
def config(**changes):
  base = dict(
    model=dict(name="ViT-mu/8", width=32, mlp_dim=64, dropout=0.1, head_zeroinit=False),
    optimizer=dict(name="sgd", learning_rate=0.1),
    schedule=dict(name="constant"),
  )
  return tiny(**{**base, **changes})


def train_for(config, steps):
  built = job.build(config, "t")
  state = built.create_state()
  for _, batch in zip(range(steps), built.batches(0), strict=False):
    state, metrics = built.train_step(state, batch)
  return built, jax.device_get(state), metrics


SCRIPT = """
from test_ascent_training import CASES, config, flat, train_for
for name in CASES:
  built, state, _ = train_for(config(**CASES[name]), 2)
  assert built.mesh.size == 8
  if built.mesh.shape["fsdp"] > 1:
    large = built.target.kept["encoder"]["block_0"]["mlp"]["up"]["kernel"]
    assert not large.sharding.is_fully_replicated
  np.savez({out!r} + "/" + name, **flat({{"params": state.params, "stats": state.batch_stats}}))
"""

RHO = 0.2
FSDP = dict(data=2, fsdp=4)
RESNET = dict(name="ResNet-50", width=4, depths=(1, 1), stem="cifar")
CASES = {
  "a_group_a_device": dict(sam=dict(kind="asam", rho=1.0, m=4)),
  "groups_of_many_devices": dict(sam=dict(kind="gsam", rho=RHO, m=16)),
  "fsdp": dict(sam=dict(kind="looksam", rho=RHO, m=4, every=2), mesh=FSDP),
  "micro_batches": dict(sam=dict(kind="sam", rho=RHO, m=16), accumulate=4),
  "batchnorm": dict(sam=dict(kind="sam", rho=0.05, m=4), model=RESNET),
}


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
  """States after two steps on eight devices."""
  out = tmp_path_factory.mktemp("eight")
  run_on_devices(8, SCRIPT.format(out=str(out)))
  return {name: dict(np.load(out / f"{name}.npz")) for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_one_and_eight_devices_agree(eight, name):
  changes = {key: value for key, value in CASES[name].items() if key != "mesh"}
  _, state, _ = train_for(config(**changes), 2)
  expected = flat({"params": state.params, "stats": state.batch_stats})
  assert eight[name].keys() == expected.keys()
  for path, x in expected.items():
    np.testing.assert_allclose(eight[name][path], x, rtol=1e-4, atol=1e-5, err_msg=path)


def test_the_size_of_groups_matters():
  found = [
    flat(train_for(config(sam=dict(kind="sam", rho=RHO, m=m)), 1)[1].params) for m in (4, 32)
  ]
  for i, a in enumerate(found):
    for b in found[:i]:
      assert max(np.abs(a[path] - b[path]).max() for path in a) > 1e-3


def test_groups_that_do_not_fit_are_refused_before_training():
  with pytest.raises(UserError, match="sam.m=5 does not fit a batch of 32"):
    job.build(config(sam=dict(kind="sam", rho=RHO, m=5)), "t")
  with pytest.raises(UserError, match="sam.only.*matches no parameter"):
    job.build(config(sam=dict(kind="sam", rho=RHO, only="bones/.*")), "t")


@pytest.mark.parametrize(
  "changes",
  [
    dict(
      optimizer=dict(name="adafactor", learning_rate=1e-3), freeze=("embedding/.*", ".*/norm1/.*")
    ),
    dict(model=dict(name="ViT-mu/8", scan=True, remat="full", dtype="bfloat16"), accumulate=2),
  ],
)
def test_sam_works_with(changes):
  _, plain, _ = train_for(config(**changes), 3)
  _, state, metrics = train_for(
    config(**changes, sam=dict(kind="sam", rho=RHO, m=8, only=".*(kernel|scale)")), 3
  )
  assert all(np.isfinite(x) for x in metrics.values())
  differences = [
    np.abs(x - y).max()
    for x, y in zip(jax.tree.leaves(state.params), jax.tree.leaves(plain.params), strict=True)
  ]
  assert max(differences) > 1e-4
  if "freeze" in changes:
    for path, x in flat(plain.params).items():
      if path.startswith("embedding/") or "/norm1/" in path:
        np.testing.assert_array_equal(flat(state.params)[path], x)


# Five steps from one ascent to the next, so that the trunk of nine steps is stopped, and left by
# its branches, in between.
LOOK = dict(sam=dict(kind="looksam", rho=RHO, m=8, every=5))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """One uninterrupted run: a trunk of 9 steps and branches of 8 and 12."""
  workdir = tmp_path_factory.mktemp("whole")
  train.run(tiny(**LOOK), workdir, "t")
  return workdir


@pytest.mark.parametrize(("stop", "at"), [(3, 3), (15, 11)])
def test_resume_is_bit_exact(whole, tmp_path, monkeypatch, stop, at):
  """Stopped in the trunk, and in the branch of 12; started again."""
  with monkeypatch.context() as m:
    m.setattr(signals, "catch", lambda: nullcontext(StopAt(stop)))
    with pytest.raises(signals.Interrupted, match=f"saved at step {at};"):
      train.run(tiny(**LOOK), tmp_path, "t")
  train.run(tiny(**LOOK), tmp_path, "t")
  assert results(tmp_path) == results(whole)
  for part in (".", "branches/8", "branches/12"):
    state = final_state(tmp_path / part, tiny(**LOOK))
    assert_same(state, final_state(whole / part, tiny(**LOOK)))
    assert max(np.abs(x).max() for x in jax.tree.leaves(state.kept)) > 0


def test_what_is_kept_matters():
  built = job.build(tiny(**LOOK), "t")
  state, batches = built.create_state(), built.batches(0)
  for _ in range(3):  # the first gradients of a head at zero keep nothing
    state, _ = built.train_step(state.replace(step=jnp.int32(5)), next(batches))
  batch = next(batches)
  forgotten = jax.tree.map(jnp.copy, state)
  forgotten = forgotten.replace(kept=jax.tree.map(jnp.zeros_like, state.kept))
  with_it, _ = built.train_step(state, batch)
  without, _ = built.train_step(forgotten, batch)
  with pytest.raises(AssertionError):
    assert_same(with_it.params, without.params)


def test_a_run_with_sam_learns(tmp_path):
  """The run of `test_train.test_a_small_run_learns`, with SAM."""
  config = tiny(
    branches=(),
    total_steps=200,
    cooldown=0.3,
    batch_size=64,
    checkpoint_every=1000,
    model=dict(name="ViT-w32d2/4", pool="gap"),
    data=dict(name="synthetic(glyphs=3, label_noise=0, train_size=8192, test_size=1000)"),
    optimizer=dict(learning_rate=3e-3),
    schedule=dict(warmup=10, timescale=500),
    evaluators=dict(test=dict(type="classification")),
    sam=dict(kind="sam", rho=0.02, m=32),
  )
  train.run(config, tmp_path, "t")
  (last,) = measurements.read(tmp_path)
  assert last["train_flops"] == 2 * 3 * last["flops_per_image"] * 200 * 64
  assert last["metrics"]["test_error"] < 0.5
  assert last["metrics"]["test_loss"] < 0.6 * np.log(10)
