"""Updates within the backward pass are those of the ordinary step, in less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import ahead, train
from vit_jax import config as config_lib
from vit_jax import job as job_lib
from vit_jax.errors import UserError
from vit_jax.measurements import read
from vit_jax.optim.layered import get

PATH = ("encoder", "blocks")
MODEL = dict(name="ViT-mu/4", depth=3, pool="map", scan=True, remat="full")


def make(updates, *, model=MODEL, **changes):
  changes = {"batch_size": 16, "total_steps": 10, "updates": updates, **changes}
  changes.setdefault("optimizer", {})
  changes["optimizer"] = {"learning_rate": 1e-2, "clip_norm": 0.0, **changes["optimizer"]}
  changes.setdefault("schedule", dict(name="constant", warmup=0))
  config = config_lib.resolve({"model": model, **changes})
  return job_lib.build(config, "test")


def steps(job, count):
  state, found, batches = job.create_state(), [], job.batches(0)
  for _ in range(count):
    state, metrics = job.train_step(state, next(batches))
    found.append({k: float(v) for k, v in metrics.items()})
  return state, found


@pytest.mark.parametrize("name", ["adamw", "adafactor", "lion", "muon"])  # sgd: below
def test_the_same_steps_as_after_the_whole_gradient(name):
  _, expected = steps(make("after", optimizer=dict(name=name)), 4)
  _, found = steps(make("within", optimizer=dict(name=name)), 4)
  for a, b in zip(found, expected, strict=True):
    for key in expected[0]:
      np.testing.assert_allclose(a[key], b[key], rtol=2e-5, err_msg=key)


def test_in_bfloat16_each_layer_is_rounded_as_before_the_scan():
  model = MODEL | dict(dtype="bfloat16")
  (state, expected), (other, found) = (
    steps(make(how, model=model, optimizer=dict(name="sgd")), 3) for how in ("after", "within")
  )
  for a, b in zip(found, expected, strict=True):
    for key in expected[0]:
      np.testing.assert_allclose(a[key], b[key], rtol=2e-3, err_msg=key)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), other.params, state.params)


def test_parameters_and_decay_are_the_same_to_the_last_digits():
  options = dict(name="sgd", momentum=0.9, weight_decay=((".*kernel.*", 0.1), (".*", 0.0)))
  expected, _ = steps(make("after", optimizer=options), 3)
  found, _ = steps(make("within", optimizer=options), 3)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found.params, expected.params
  )


def _squares(tree):
  return sum(float(np.sum(np.square(x))) for x in jax.tree.leaves(tree))


def test_clips_by_the_larger_of_the_last_norm_and_what_is_known_of_this_one():
  rate, limit, last = 0.5, 0.1, 0.4
  plain = dict(name="sgd", momentum=0.0, weight_decay=((".*", 0.0),), learning_rate=rate)
  job = make("after", optimizer=plain)
  begin = jax.device_get(job.create_state().params)
  state, (metrics,) = steps(job, 1)
  grads = jax.tree.map(lambda a, b: (a - np.asarray(b)) / rate, begin, state.params)

  job = make("within", optimizer=plain | dict(clip_norm=limit))
  state = job.create_state()
  state = state.replace(kept=jax.device_put(jnp.float32(last), state.kept.sharding))
  state, _ = job.train_step(state, next(job.batches(0)))
  found = jax.tree.map(lambda a, b: (a - np.asarray(b)) / rate, begin, state.params)

  # The pass comes from the head: its gradients first, then the layers from last to first.
  known = _squares({k: v for k, v in grads.items() if k in ("encoder_norm", "map_pool", "head")})
  for i in reversed(range(MODEL["depth"])):
    layer = jax.tree.map(lambda g, i=i: g[i], get(grads, PATH))
    known += _squares(layer)
    scale = min(1, limit / max(last, known**0.5))
    own = jax.tree.map(lambda g, i=i: g[i], get(found, PATH))
    jax.tree.map(lambda a, b, s=scale: np.testing.assert_allclose(a, b * s, atol=2e-6), own, layer)
  scale = limit / max(last, metrics["grad_norm"])
  np.testing.assert_allclose(
    found["embedding"]["kernel"], grads["embedding"]["kernel"] * scale, atol=2e-6
  )
  np.testing.assert_allclose(state.kept, metrics["grad_norm"], rtol=1e-5)


@pytest.mark.slow
def test_the_gradient_of_the_model_is_never_in_the_memory_of_a_tpu():
  pytest.importorskip("libtpu")
  model = dict(name="ViT-w128d24/4", pool="map", scan=True, remat="full", dtype="bfloat16")
  (device, *_), temporary = ahead.tpu_devices("v3:2x2"), {}
  for updates in ("after", "within"):
    config = config_lib.resolve(dict(total_steps=1, batch_size=1, model=model, updates=updates))
    job = ahead.build(config, [device], num_classes=10)
    temporary[updates] = job.lower().compile().memory_analysis().temp_size_in_bytes
  stacked = sum(x.size * 4 for x in jax.tree.leaves(get(job.target.params, PATH)))
  assert temporary["after"] > stacked
  assert temporary["within"] < 0.5 * stacked


def test_resumes_bit_for_bit(tmp_path):
  def run(directory, *, total):
    config = config_lib.resolve(
      dict(
        batch_size=16,
        branches=(total,),
        cooldown=2.0,
        updates="within",
        model=MODEL | dict(dropout=0.1, drop_path=0.1),
        checkpoint_every=2,
        data=dict(name="synthetic(train_size=64, test_size=32)"),
        optimizer=dict(name="adafactor", clip_norm=0.5),
      )
    )
    train.run(config, directory, "test")
    return [m["metrics"] for m in read(directory / "branches" / str(total))]

  whole = run(tmp_path / "whole", total=8)
  run(tmp_path / "parts", total=5)
  assert run(tmp_path / "parts", total=8) == whole


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (dict(accumulate=2), "accumulate=2 does not go"),
    (dict(sam=dict(kind="sam", rho=0.1)), "sam.kind='sam' does not go"),
    (dict(freeze=("embedding/.*",)), "does not go"),
    (dict(model=MODEL | dict(scan=False)), "model.scan=False does not go"),
    (dict(model=MODEL | dict(remat="none")), "model.remat='none' does not go"),
    (dict(model=dict(name="CaiT-XXS24", scan=True, remat="full")), "and the model has 2"),
    (dict(optimizer=dict(layer_decay=0.9)), "layer_decay"),
    (dict(updates="during"), "'updates' must be"),
  ],
)
def test_what_does_not_go_is_refused(changes, message):
  with pytest.raises(UserError, match=message):
    make(changes.pop("updates", "within"), **changes)
