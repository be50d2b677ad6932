"""Muon and schedule-free AdamW in the trainer: devices, scan, resume, and what others read."""

from contextlib import nullcontext

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from training import StopAt, assert_same, final_state, run_on_devices, tiny

from vit_jax import initial, job, losses, measurements, parallel, signals, step, train
from vit_jax.errors import UserError
from vit_jax.models import stacking
from vit_jax.optim import schedule_free

MUON = dict(name="muon", momentum=0.95, nesterov=True, learning_rate=0.01)
FREE = dict(name="schedule_free_adamw", learning_rate=0.01)
FSDP = dict(data=2, fsdp=4)


def config(optimizer, **changes):
  """A head that is not zero, so that all gradients are well above rounding from the first step."""
  base = dict(
    model=dict(name="ViT-mu/8", depth=1, width=32, mlp_dim=64, head_zeroinit=False),
    optimizer=dict(optimizer, weight_decay=((".*kernel", 0.1), (".*", 0.0))),
    schedule=dict(name="constant", warmup=2),
    branches=(),
    cooldown=0.0,
    total_steps=6,
  )
  return tiny(**{**base, **changes})


def flat(tree):
  return {path: np.asarray(x) for path, x in flatten_dict(jax.device_get(tree), sep="/").items()}


def train_for(config, steps):
  built = job.build(config, "t")
  state = built.create_state()
  for _, batch in zip(range(steps), built.batches(0), strict=False):
    state, _ = built.train_step(state, batch)
  return built, state


SCRIPT = """
from test_optimizers_training import FREE, FSDP, MUON, config, flat, train_for
for name, optimizer in (("muon", MUON), ("free", FREE)):
  built, state = train_for(config(optimizer, mesh=FSDP), 3)
  assert built.mesh.size == 8
  large = built.target.params["encoder"]["block_0"]["mlp"]["up"]["kernel"]
  assert not large.sharding.is_fully_replicated
  np.savez({out!r} + "/" + name, **flat(state.params))
"""


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
  """Parameters after three steps on eight devices, with sharded parameters and states."""
  out = tmp_path_factory.mktemp("eight")
  run_on_devices(8, SCRIPT.format(out=str(out)))
  return {name: dict(np.load(out / f"{name}.npz")) for name in ("muon", "free")}


@pytest.mark.parametrize(("name", "optimizer"), [("muon", MUON), ("free", FREE)])
def test_one_and_eight_devices_agree(eight, name, optimizer):
  built, state = train_for(config(optimizer), 3)
  start = flat(built.create_state().params)
  for path, x in flat(state.params).items():
    if path.endswith("key/bias"):  # its gradient is zero but for rounding: softmax is invariant
      continue
    moved = np.sqrt(((x - start[path]) ** 2).sum())
    error = np.sqrt(((eight[name][path] - x) ** 2).sum())
    assert error < 2e-3 * moved, path


def test_muon_trains_scanned_layers_as_single_ones():
  deep = dict(name="ViT-mu/8", width=32, depth=2, mlp_dim=48, head_zeroinit=False)
  apart = job.build(config(MUON, model=deep), "t")
  stacked = job.build(config(MUON, model=dict(deep, scan=True)), "t")
  state, other = apart.create_state(), stacked.create_state()
  variables = {"params": jax.device_get(state.params)}
  together = stacking.stack(variables["params"])
  other = initial.place(initial.Initial({"params": together}, ""), other)
  for batch, _ in zip(apart.batches(0), range(3), strict=False):
    state, other = apart.train_step(state, batch)[0], stacked.train_step(other, batch)[0]
  found = flat(stacking.unstack(jax.device_get(other.params)))
  start = flat(variables["params"])
  for path, x in flat(state.params).items():
    if not path.endswith("key/bias"):
      moved = np.sqrt(((x - start[path]) ** 2).sum())
      assert np.sqrt(((found[path] - x) ** 2).sum()) < 2e-3 * moved, path


def test_the_gradient_is_taken_between_the_average_and_the_newest():
  built, state = train_for(config(FREE), 4)
  batch = next(built.batches(4))
  loss_fn = losses.make("softmax_xent", num_classes=10, label_smoothing=0.0)
  gradient = step.make_gradient(step.make_loss(built.model, loss_fn), parallel.make_mesh(), 1)
  at = schedule_free.point(state.opt_state, state.params)
  losses_at = [
    float(gradient(params, state.batch_stats, batch, jax.random.key(0))[0])
    for params in (at, state.params)
  ]
  _, metrics = built.train_step(state, batch)
  np.testing.assert_allclose(metrics["loss"], losses_at[0], rtol=1e-5)
  assert abs(losses_at[1] - losses_at[0]) > 1e-4


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """One uninterrupted schedule-free run."""
  workdir = tmp_path_factory.mktemp("whole")
  train.run(config(FREE), workdir, "t")
  return workdir


def test_resume_is_bit_exact(whole, tmp_path, monkeypatch):
  with monkeypatch.context() as m:
    m.setattr(signals, "catch", lambda: nullcontext(StopAt(3)))
    with pytest.raises(signals.Interrupted):
      train.run(config(FREE), tmp_path, "t")
  train.run(config(FREE), tmp_path, "t")
  assert_same(final_state(tmp_path, config(FREE)), final_state(whole, config(FREE)))


def test_what_others_read_is_what_was_evaluated(whole):
  """From the average, the measured loss; a new run begins there, its newest point included."""
  built = job.build(config(FREE, init_from=str(whole)), "t")
  found = initial.read_weights(str(whole), built.model, lambda _: None)
  end = final_state(whole, config(FREE))
  jax.tree.map(np.testing.assert_array_equal, found.variables["params"], end.params)
  (last,) = [m for m in measurements.read(whole) if m["final"]]
  metrics = built.evaluators["test"](end)
  assert metrics["test_loss"] == pytest.approx(last["metrics"]["test_loss"], rel=1e-6)


def test_a_run_from_other_weights_begins_with_them(whole, tmp_path):
  """At a rate of almost 0 nothing moves: neither the average nor the newest point."""
  still = config(dict(FREE, learning_rate=1e-12), init_from=str(whole))
  train.run(still, tmp_path, "t")
  end, start = final_state(tmp_path, still), final_state(whole, config(FREE))
  at = schedule_free.point(end.opt_state, end.params)
  for tree in (end.params, at):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), tree, start.params)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (dict(branches=(8,), cooldown=0.25), "no use for a cooldown"),
    (dict(schedule=dict(name="cosine")), "takes config.schedule.name='constant'"),
  ],
)
def test_a_schedule_is_refused_before_training(changes, message):
  with pytest.raises(UserError, match=message):
    job.build(config(FREE, **changes), "t")
