"""Layouts and memory policies compute one function; dropout and drop path keep their promises."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_vit
import pytest
from flax import linen as nn
from modeling import apply, jit, random_images, random_params, tiny

from vit_jax.models import stacking
from vit_jax.models.layers import LayerNorm, drop_path
from vit_jax.optim import groups

WEIGHT = np.random.default_rng(2).normal(size=(3, 5)).astype(np.float32)


def value_and_grad(model, params, images, **kwargs):
  def loss(p):
    return (model.apply({"params": p}, images, **kwargs).logits * WEIGHT).sum()

  return jit(jax.value_and_grad(loss))(params)


def assert_same(a, b):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-5), a, b)


@pytest.fixture(scope="module")
def reference():
  model = tiny(pool="map")
  params, images = random_params(model), random_images(model)
  return params, images, value_and_grad(model, params, images)


@pytest.mark.parametrize(("scan", "remat"), [(False, "full"), (True, "none"), (True, "dots")])
def test_scan_and_remat_change_neither_output_nor_gradients(reference, scan, remat):
  params, images, (value, grads) = reference
  model = tiny(pool="map", scan=scan, remat=remat)
  got_value, got_grads = value_and_grad(model, stacking.stack(params) if scan else params, images)
  np.testing.assert_allclose(got_value, value, rtol=1e-5)
  assert_same(stacking.unstack(got_grads) if scan else got_grads, grads)


def test_layers_in_another_order_are_another_function(reference):
  params, images, (value, _) = reference
  stacked = stacking.stack(params)
  stacked["encoder"]["blocks"] = jax.tree.map(lambda x: x[::-1], stacked["encoder"]["blocks"])
  out = apply(tiny(pool="map", scan=True), stacked, images)
  assert not np.allclose((out.logits * WEIGHT).sum(), value, rtol=1e-3)


@pytest.mark.parametrize("remat", ["full", "dots"])
def test_remat_keeps_less(remat):
  images = random_images(tiny())

  def kept(model):
    residuals = jax.eval_shape(
      lambda p: jax.vjp(lambda p: model.apply({"params": p}, images).logits, p)[1],
      random_params(model),
    )
    return sum(x.size for x in jax.tree.leaves(residuals))

  assert kept(tiny(remat=remat)) < 0.8 * kept(tiny())


@pytest.mark.parametrize(("scan", "rate"), [(False, "dropout"), (True, "drop_path")])
def test_randomness_only_in_training(scan, rate):
  model = tiny(scan=scan, **{rate: 0.5})
  params, images = random_params(model), random_images(model)
  expected = apply(tiny(scan=scan), params, images).logits
  np.testing.assert_array_equal(apply(model, params, images, train=False).logits, expected)
  noisy = apply(model, params, images, train=True, rngs={"dropout": jax.random.key(0)}).logits
  assert not np.allclose(noisy, expected)


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
  x = jnp.ones((20_000, 2, 3)) * jnp.arange(1.0, 4.0)
  y = np.asarray(drop_path(x, 0.3, jax.random.key(0)))
  kept = y[:, 0, 0] != 0
  np.testing.assert_allclose(y, np.where(kept[:, None, None], x / 0.7, 0), rtol=1e-6)
  assert abs(kept.mean() - 0.7) < 4 * np.sqrt(0.21 / 20_000)


@pytest.mark.parametrize("scan", [False, True])
def test_drop_path_rates_are_linear_and_branches_independent(scan):
  # Branches that add a constant to a token: the features then count which branches were kept.
  depth, rate, batch = 3, 0.4, 4000
  model = tiny(depth=depth, drop_path=rate, scan=scan, pool="gap")
  params = random_params(tiny(depth=depth, pool="gap"))
  for i in range(depth):
    for j, kernel in enumerate((("attention", "out"), ("mlp", "down"))):
      leaf = params["encoder"][f"block_{i}"][kernel[0]][kernel[1]]
      leaf["kernel"] = leaf["kernel"] * 0
      leaf["bias"] = np.float32(np.arange(16) == 2 * i + j) * 100
  params = stacking.stack(params) if scan else params
  images = np.zeros((batch, 8, 8, 3), np.float32)
  _, state = jit(
    lambda p, x: model.apply(
      {"params": p},
      x,
      train=True,
      rngs={"dropout": jax.random.key(7)},
      capture_intermediates=lambda module, _: module.name == "encoder",
    )
  )(params, images)
  tokens = np.asarray(state["intermediates"]["encoder"]["__call__"][0])
  kept = tokens[:, 0, : 2 * depth] > 50  # a kept branch adds 100 / (1 - rate)
  np.testing.assert_array_equal(kept, tokens[:, -1, : 2 * depth] > 50)  # all tokens alike
  expected = 1 - np.repeat(np.linspace(0, rate, depth), 2)
  np.testing.assert_allclose(kept.mean(0), expected, atol=4 * np.sqrt(0.25 / batch))
  correlation = np.corrcoef(kept[:, 2:].T) - np.eye(4)
  assert np.abs(correlation).max() < 5 / np.sqrt(batch)


def test_dropout_after_positions_inside_mlps_and_at_the_end_of_branches():
  model = tiny(dropout=0.25, depth=1)
  images = random_images(model, 64)
  _, state = jit(
    lambda p, x: model.apply(
      {"params": p},
      x,
      train=True,
      rngs={"dropout": jax.random.key(0)},
      capture_intermediates=lambda module, _: isinstance(module, nn.Dropout),
    )
  )(random_params(model), images)
  dropped = {
    groups.path_name(path[1:-2]): np.asarray(x)
    for path, x in jax.tree_util.tree_leaves_with_path(state)
    if "__call__" in groups.path_name(path)  # not what the layers sow
  }
  assert {path: x.shape[-1] for path, x in dropped.items()} == {
    "Dropout_0": 16,
    "encoder/block_0/Dropout_0": 16,
    "encoder/block_0/mlp/Dropout_0": 24,
    "encoder/block_0/Dropout_1": 16,
  }
  for path, x in dropped.items():
    assert abs((x == 0).mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / x.size), path


@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (1e-3, 0), (0.1, 100)])
def test_norm_of_small_and_of_far_off_values(scale, offset):
  x = np.float32(np.random.default_rng(0).normal(size=(8, 64)) * scale + offset)
  params = {"scale": np.full(64, 2.0, np.float32), "bias": np.full(64, 0.5, np.float32)}
  expected = numpy_vit.norm(x.astype(np.float64), params)
  np.testing.assert_allclose(
    LayerNorm().apply({"params": params}, x), expected, rtol=0, atol=2e-3 if offset else 1e-5
  )  # float32 knows 100.0 to 4e-6 = 4e-5 / 0.1


@pytest.mark.parametrize("scan", [False, True])
def test_intermediates_of_every_layer_can_be_captured(scan):
  model = tiny(scan=scan)
  _, state = model.apply(
    {"params": random_params(model)},
    random_images(model),
    capture_intermediates=lambda module, _: module.name == "attention",
  )
  captured = state["intermediates"]["encoder"]
  maps = (
    [captured["blocks"]["attention"]["__call__"][0]]
    if scan
    else [captured[f"block_{i}"]["attention"]["__call__"][0] for i in range(2)]
  )
  assert [m.shape for m in maps] == ([(2, 3, 17, 16)] if scan else [(3, 17, 16)] * 2)


@pytest.mark.parametrize("scan", [False, True])
def test_attention_weights_and_activations_are_sown_only_when_asked_for(scan):
  model = tiny(scan=scan, dtype="bfloat16")
  params, images = random_params(model), random_images(model)
  out, state = model.apply({"params": params}, images, mutable=["intermediates"])
  encoder = state["intermediates"]["encoder"]
  block = encoder["blocks"] if scan else encoder["block_1"]
  (weights,) = block["attention"]["attention_weights"]
  (activations,) = block["mlp"]["mlp_activations"]
  lead = (2,) if scan else ()
  assert weights.shape == (*lead, 3, 2, 17, 17)
  assert activations.shape == (*lead, 3, 17, 24)
  np.testing.assert_allclose(np.float32(weights).sum(-1), 1, atol=0.02)
  plain, nothing = model.apply({"params": params}, images, mutable=["batch_stats"])
  assert not nothing
  np.testing.assert_array_equal(plain.logits, out.logits)
