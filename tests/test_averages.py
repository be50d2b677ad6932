import jax
import numpy as np
import pytest
from training import StopAt, assert_same, final_state, results, run_on_devices, tiny

from vit_jax import averages, config, job, signals, train
from vit_jax.errors import UserError
from vit_jax.optim import groups

BOTH = {"ema": {"decay": 0.8}, "lawa": {"snapshots": 3, "every": 2}}
RESNET = {"model": {"name": "ResNet-50", "width": 4, "depths": (1, 1), "stem": "cifar"}}


def train_for(config, steps):
  """Returns the job, the last state, and what is averaged after each step, on the host."""
  built = job.build(config, "t")
  state, trail = built.create_state(), []
  for _, batch in zip(range(steps), built.batches(0), strict=False):
    state, _ = built.train_step(state, batch)
    trail.append(jax.device_get({"params": state.params, "batch_stats": state.batch_stats}))
  return built, state, trail


def expected_ema(trail, decay, warmup):
  """By the weight of each step, in float64."""
  weights = np.ones(1)
  for n in range(2, len(trail) + 1):
    keep = min(decay, n / (n + 9)) if warmup else decay
    weights = np.append(weights * keep, 1 - keep)
  assert weights.sum() == pytest.approx(1)
  return jax.tree.map(lambda *xs: np.tensordot(weights, np.stack(xs).astype(float), 1), *trail)


def expected_lawa(trail, snapshots, every):
  kept = trail[every - 1 :: every][-snapshots:] or trail[-1:]
  return jax.tree.map(lambda *xs: np.mean(np.stack(xs).astype(float), 0), *kept)


def close(state, want):
  got = {"params": state.params, "batch_stats": state.batch_stats}
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-7), got, want)


@pytest.mark.parametrize(
  ("model", "warmup"),
  [({}, True), ({}, False), pytest.param(RESNET, True, marks=pytest.mark.slow)],
)
def test_averages_over_the_steps_are_those_of_the_definition(model, warmup):
  averaged = tiny(**BOTH | {"ema": {"decay": 0.8, "warmup": warmup}} | model)
  built, state, trail = train_for(averaged, 9)
  views = built.averages.views(state)
  assert list(views) == ["ema", "lawa"]
  close(views["ema"], expected_ema(trail, 0.8, warmup))
  close(views["lawa"], expected_lawa(trail, 3, 2))
  assert bool(trail[0]["batch_stats"]) == bool(model)
  with pytest.raises(AssertionError):  # they are averages, not the last of what they average
    close(views["ema"], trail[-1])
  with pytest.raises(AssertionError):
    close(views["lawa"], expected_lawa(trail, 4, 2))
  # Training is what it is without them, which then take no room; another program may round
  # otherwise.
  _, plain, _ = train_for(tiny(**model), 9)
  assert plain.averages is None
  for (path, a), b in zip(
    jax.tree_util.tree_leaves_with_path(plain.params), jax.tree.leaves(state.params), strict=True
  ):
    if not groups.path_name(path).endswith("key/bias"):  # its gradient is nothing but rounding
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_averages_of_the_first_steps():
  built, state, trail = train_for(tiny(**BOTH), 1)
  views = built.averages.views(state)
  assert_same(views["ema"].params, trail[0]["params"])  # the initial parameters have no part
  assert_same(views["lawa"].params, trail[0]["params"])  # no snapshot yet
  start = built.create_state()
  for view in built.averages.views(start).values():
    assert_same(view.params, start.params)
  built, state, trail = train_for(tiny(**BOTH), 5)  # two snapshots of three
  close(built.averages.views(state)["lawa"], expected_lawa(trail, 3, 2))


def test_resumed_runs_and_branches_average_bit_for_bit(tmp_path):
  config = tiny(**BOTH)
  train.run(config, tmp_path / "whole", "t")
  for step in (3, 7):
    job_ = train.prepare(config, tmp_path / "cut", "t")
    with pytest.raises(signals.Interrupted):
      train.execute(job_, tmp_path / "cut", StopAt(step))
  train.run(config, tmp_path / "cut", "t")
  assert results(tmp_path / "cut") == results(tmp_path / "whole")
  for branch in ("", "branches/8", "branches/12"):
    assert_same(
      final_state(tmp_path / "cut" / branch, config),
      final_state(tmp_path / "whole" / branch, config),
    )
  metrics = results(tmp_path / "whole")[1]["metrics"]
  assert {"test_error", "ema_test_error", "lawa_test_error", "ema_test_loss"} <= metrics.keys()
  built = job.build(config, "t")
  state = final_state(tmp_path / "whole" / "branches" / "12", config)
  for name, view in built.averages.views(state).items():
    for key, value in built.evaluators["test"](view).items():
      assert metrics[f"{name}_{key}"] == pytest.approx(value, rel=1e-6)
  assert metrics["ema_test_loss"] != metrics["test_loss"]
  assert metrics["lawa_test_loss"] != metrics["test_loss"]


SCRIPT = """
from test_averages import BOTH, train_for
from training import tiny
built, state, _ = train_for(tiny(**BOTH, **{changes!r}), 5)
spec = lambda tree: [x.sharding.spec for x in jax.tree.leaves(tree)]
assert spec(state.averages["ema"]["params"]) == spec(state.params)
assert any(any(s) for s in spec(state.averages["lawa"]))
out = {{}}
for name, view in built.averages.views(state).items():
  for i, x in enumerate(jax.tree.leaves(view.params)):
    out[f"{{name}} {{i}}"] = np.asarray(x)
np.savez({out!r}, **out)
"""


@pytest.mark.slow
def test_averages_are_sharded_as_the_parameters_are(tmp_path):
  changes = {
    "mesh": {"data": 2, "fsdp": 4},
    "model": {"name": "ViT-mu/8", "width": 32, "mlp_dim": 64},
    "optimizer": {"name": "sgd", "learning_rate": 0.1},
  }
  out = str(tmp_path / "out.npz")
  run_on_devices(8, SCRIPT.format(changes=changes, out=out))
  built, state, _ = train_for(tiny(**BOTH, **{**changes, "mesh": {}}), 5)
  with np.load(out) as found:
    for name, view in built.averages.views(state).items():
      for i, x in enumerate(jax.tree.leaves(view.params)):
        np.testing.assert_allclose(found[f"{name} {i}"], x, rtol=1e-4, atol=1e-5)


@pytest.mark.torch
def test_ema_is_that_of_timm():
  torch, timm = pytest.importorskip("torch"), pytest.importorskip("timm.utils")
  _, _, trail = train_for(tiny(), 8)
  model = torch.nn.Linear(1, 1)
  follower = timm.ModelEmaV3(model, decay=0.7)
  for n, at in enumerate(trail, 1):
    model.weight.data[:] = float(at["params"]["head"]["kernel"][0, 0])
    follower.update(model, step=n)
  want = expected_ema(trail, 0.7, False)["params"]["head"]["kernel"][0, 0]
  assert follower.module.weight.item() == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize(
  ("ema", "lawa", "message"),
  [
    ({"decay": 1.0}, {}, r"config.ema.decay must be a number in \[0.0, 1.0\), got 1.0"),
    ({"warmup": False}, {}, "no effect without config.ema.decay"),
    ({}, {"snapshots": 3}, "snapshots=3 and every=0 go together"),
    ({}, {"every": 3}, "snapshots=0 and every=3 go together"),
    ({}, {"snapshots": -1, "every": 3}, "config.lawa.snapshots must be an integer"),
  ],
)
def test_mistakes_are_named(ema, lawa, message):
  with pytest.raises(UserError, match=message) as error:
    averages.make(averages.DEFAULTS["ema"] | ema, averages.DEFAULTS["lawa"] | lawa)
  assert "\n" not in str(error.value)
  with pytest.raises(UserError, match=message):
    job.build(tiny(ema=ema, lawa=lawa), "t")


def test_what_is_off_leaves_runs_as_they_were():
  assert config.config_hash(tiny(ema={"decay": 0.0})) == config.config_hash(tiny())
  assert config.config_hash(tiny(**BOTH)) != config.config_hash(tiny())
