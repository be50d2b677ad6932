"""Models with batch normalisation in every part of the trainer."""

from contextlib import nullcontext

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from training import StopAt, assert_same, final_state, results, run_on_devices, tiny

from vit_jax import job, signals, step, train
from vit_jax.optim import frozen

MODEL = dict(name="ResNet-50", width=4, depths=(2, 1), stem="cifar")


def config(**changes):
  return tiny(**{"model": MODEL, **changes})


def flat(tree):
  return {path: np.asarray(x) for path, x in flatten_dict(jax.device_get(tree), sep="/").items()}


def train_for(config, steps):
  """Returns the job, and its states at step 0 and `steps`, on the host."""
  built = job.build(config, "t")
  state = built.create_state()
  first = jax.device_get(state)
  for _, batch in zip(range(steps), built.batches(0), strict=False):
    state, _ = built.train_step(state, batch)
  return built, first, jax.device_get(state)


SCRIPT = """
from test_batchnorm_training import config, flat, train_for
for name, changes in {cases!r}.items():
  built, _, state = train_for(config(**changes), 2)
  assert built.mesh.size == 8
  np.savez({out!r} + "/" + name, **flat({{"params": state.params, "stats": state.batch_stats}}))
"""

# Few images per device, so that statistics of one device would be far from those of all. SGD:
# Adam would divide the rounding errors of tiny gradients by their own size.
SGD = dict(optimizer=dict(name="sgd", learning_rate=0.1), batch_size=16)
CASES = {
  "plain": SGD,
  "fsdp": dict(**SGD, mesh=dict(data=2, fsdp=4)),
  "accumulated": {**SGD, "batch_size": 32, "accumulate": 2, "model": {**MODEL, "scan": True}},
}
TOLERANCE = dict(rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
  """States after two steps on eight devices."""
  out = tmp_path_factory.mktemp("eight")
  run_on_devices(8, SCRIPT.format(cases=CASES, out=str(out)))
  return {name: dict(np.load(out / f"{name}.npz")) for name in CASES}


def single(name):
  changes = {key: value for key, value in CASES[name].items() if key != "mesh"}
  _, _, state = train_for(config(**changes), 2)
  return flat({"params": state.params, "stats": state.batch_stats})


@pytest.mark.parametrize("name", CASES)
def test_statistics_are_those_of_the_global_batch(eight, name):
  expected = single(name)
  assert eight[name].keys() == expected.keys()
  for path, x in expected.items():
    np.testing.assert_allclose(eight[name][path], x, **TOLERANCE, err_msg=path)


def test_means_of_the_devices_own_statistics_would_be_seen():
  built = job.build(config(**CASES["plain"]), "t")
  state = built.create_state()
  batch = next(built.batches(0))
  loss = jax.jit(step.make_loss(built.model, built.loss_fn))

  def variance(start, stop):
    part = jax.tree.map(lambda x: x[start:stop], batch)
    _, stats = loss(state.params, state.batch_stats, part, jax.random.key(0))
    return np.asarray(stats["stem_norm"]["var"])

  mean = np.mean([variance(i, i + 2) for i in range(0, 16, 2)], axis=0)
  assert not np.allclose(mean, variance(0, 16), **TOLERANCE)


def test_accumulation_takes_the_statistics_through_the_micro_batches():
  built = job.build(config(), "t")
  state = built.create_state()
  batch = next(built.batches(0))
  loss = step.make_loss(built.model, built.loss_fn)
  gradient = jax.jit(step.make_gradient(loss, built.mesh, 4))
  key = jax.random.key(0)
  value, stats, grads = gradient(state.params, state.batch_stats, batch, key)
  assert_same((value, stats, grads), gradient(state.params, state.batch_stats, batch, key))

  @jax.jit
  def one(params, stats, batch):
    return jax.value_and_grad(loss, has_aux=True)(params, stats, batch, key)

  expected, values, sums = state.batch_stats, [], None
  for j in range(4):
    micro = jax.tree.map(lambda x, j=j: x[j::4], batch)
    (v, expected), g = one(state.params, expected, micro)
    values.append(v)
    sums = g if sums is None else jax.tree.map(np.add, sums, g)
  np.testing.assert_allclose(value, np.mean(values), rtol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), stats, expected)
  scale = max(np.abs(x).max() for x in jax.tree.leaves(sums))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b / 4, rtol=1e-3, atol=1e-5 * scale), grads, sums
  )
  for path, x in flat(stats).items():
    assert np.isfinite(x).all(), path
    assert np.abs(x - flat(state.batch_stats)[path]).max() > 1e-6, path


def test_the_running_statistics_approach_those_of_the_data():
  built, _, state = train_for(config(optimizer=dict(learning_rate=0.0)), 60)
  loss = step.make_loss(built.model, built.loss_fn)
  batches = [b for _, b in zip(range(60), built.batches(0), strict=False)]
  batch = jax.tree.map(lambda *x: np.concatenate(x), *batches[-16:])
  zero = jax.tree.map(np.zeros_like, state.batch_stats)
  _, stats = loss(state.params, zero, batch, jax.random.key(0))
  for path, x in flat(stats).items():
    if "stem_norm" in path:
      np.testing.assert_allclose(flat(state.batch_stats)[path], 10 * x, rtol=0.1, atol=0.02)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """One uninterrupted run: a trunk of 9 steps and branches of 8 and 12."""
  workdir = tmp_path_factory.mktemp("whole")
  train.run(config(), workdir, "t")
  return workdir


@pytest.mark.parametrize(("stop", "at"), [(5, 5), (15, 11)])
def test_resume_is_bit_exact(whole, tmp_path, monkeypatch, stop, at):
  """Stopped in the trunk, and in the branch of 12; started again."""
  with monkeypatch.context() as m:
    m.setattr(signals, "catch", lambda: nullcontext(StopAt(stop)))
    with pytest.raises(signals.Interrupted, match=f"saved at step {at};"):
      train.run(config(), tmp_path, "t")
  train.run(config(), tmp_path, "t")
  assert results(tmp_path) == results(whole)
  for part in (".", "branches/8", "branches/12"):
    state = final_state(tmp_path / part, config())
    assert_same(state, final_state(whole / part, config()))
    assert flat(state.batch_stats)["stem_norm/mean"].any()


def test_branches_have_statistics_of_their_own(whole):
  trunk, branch = (final_state(whole / part, config()) for part in (".", "branches/12"))
  with pytest.raises(AssertionError):
    assert_same(trunk.batch_stats, branch.batch_stats)


def test_evaluation_uses_the_running_statistics_whatever_the_batch_size():
  built, _, state = train_for(config(), 3)
  other = job.build(config(batch_size=8), "t")
  head = jax.tree.map(lambda x: 100 * x, state.params["head"])  # it starts near zero
  state = state.replace(params={**state.params, "head": head})
  before = flat(state.batch_stats)
  metrics = built.evaluators["test"](state)
  again = other.evaluators["test"](state)
  assert metrics["test_examples"] == again["test_examples"] == 100
  np.testing.assert_allclose(metrics["test_loss"], again["test_loss"], rtol=1e-5)
  assert_same(flat(state.batch_stats), before)
  moved = state.replace(batch_stats=jax.tree.map(lambda x: x + 0.5, state.batch_stats))
  assert abs(built.evaluators["test"](moved)["test_loss"] / metrics["test_loss"] - 1) > 1e-4


def test_frozen_norms_keep_their_statistics():
  model = {**MODEL, "depths": (3, 1), "scan": True, "remat": "full"}
  _, first, last = train_for(config(model=model, freeze=("stage_0/.*", "stem_.*")), 2)
  for path, x in flat(last.batch_stats).items():
    assert (x == flat(first.batch_stats)[path]).all() == (not path.startswith("stage_1")), path


def test_a_linear_probe_keeps_all_statistics():
  _, first, last = train_for(config(freeze=(frozen.BACKBONE,)), 2)
  assert_same(first.batch_stats, last.batch_stats)
  with pytest.raises(AssertionError):
    assert_same(first.params["head"], last.params["head"])
