"""What the trainer and the analysis expect of every class of models."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict
from modeling import jit
from shrunken import SHRUNKEN, create

from vit_jax import gathering, models, parallel
from vit_jax.errors import UserError
from vit_jax.models import catalogue, fields, stacking

every_model = pytest.mark.parametrize("name", list(SHRUNKEN))


def has(name, field):
  return field in fields.annotations(catalogue.find(name).module)


def images_for(model, batch=4):
  size = (batch, model.image_size, model.image_size, 3)
  return np.float32(np.random.default_rng(1).normal(size=size))


def variables_of(model, seed=0):
  """Every tensor at random: scales and variances near 1, the rest 0.2 times normal."""
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(model.init, jax.random.key(0), images_for(model, 1))

  def draw(path, leaf):
    x = 0.2 * rng.normal(size=leaf.shape)
    return np.float32(np.abs(x + 1) if path[-1].key in ("scale", "var") else x)

  return jax.tree_util.tree_map_with_path(draw, shapes)


def outputs(model, variables, images, **kwargs):
  return jit(lambda v, x: model.apply(v, x, **kwargs))(variables, images)


def program(model, variables, images):
  """Returns what evaluation computes, as text."""
  return re.sub("0x[0-9a-f]+", "", str(jax.make_jaxpr(model.apply)(variables, images)))


def test_every_class_is_here():
  classes = {catalogue.find(name).module for name in models.names()}
  assert classes == {catalogue.find(name).module for name in SHRUNKEN}


@every_model
def test_outputs_and_parameters_are_float32_in_either_dtype(name):
  model = create(name)
  variables, images = variables_of(model), images_for(model)
  exact = outputs(model, variables, images)
  rough = outputs(create(name, dtype="bfloat16"), variables, images)
  for out in (exact, rough):
    assert out.logits.shape == (4, 5)
    assert out.logits.dtype == out.features.dtype == jnp.float32
    assert out.features.shape[0] == 4
    assert out.features.ndim == 2
  error = np.abs(rough.logits - exact.logits).max() / np.abs(exact.logits).max()
  assert 1e-6 < error < 0.1  # below: nothing was computed in bfloat16
  init = jax.eval_shape(create(name, dtype="bfloat16").init, jax.random.key(0), images)
  assert {x.dtype for x in jax.tree.leaves(init)} == {jnp.dtype("float32")}


@every_model
def test_images_are_looked_at_one_by_one(name):
  model = create(name)
  variables, images = variables_of(model), images_for(model)
  together = outputs(model, variables, images).logits
  alone = outputs(model, variables, images[2:3]).logits
  np.testing.assert_allclose(together[2:3], alone, rtol=1e-4, atol=1e-5)
  assert np.abs(together[0] - together[1]).max() > 1e-4


@every_model
def test_every_parameter_gets_a_gradient_in_training(name):
  model = create(name)
  variables, images = variables_of(model), images_for(model)
  weight = np.random.default_rng(2).normal(size=(4, 5))

  def loss(params):
    out, _ = model.apply(
      {**variables, "params": params},
      images,
      train=True,
      rngs={"dropout": jax.random.key(0)},
      mutable=["batch_stats"],
    )
    distilled = 0 if out.distilled_logits is None else (out.distilled_logits * weight).sum()
    return (out.logits * weight).sum() + distilled

  grads = jit(jax.grad(loss))(variables["params"])
  for path, g in jax.tree_util.tree_leaves_with_path(grads):
    assert np.isfinite(g).all(), path
  moved = sum(bool(np.abs(g).max() > 1e-6) for g in jax.tree.leaves(grads))
  # Biases that a softmax or a normalisation takes away, and frozen tables, get none.
  assert moved >= 0.7 * len(jax.tree.leaves(grads))


@every_model
def test_scan_and_remat_change_nothing(name):
  options = [dict(remat="full"), dict(scan=True), dict(scan=True, remat="dots")]
  options = [o for o in options if all(has(name, field) for field in o)]
  model = create(name)
  variables, images = variables_of(model), images_for(model)

  def value_and_grad(model, variables):
    def loss(p):
      return (model.apply({**variables, "params": p}, images).logits ** 2).sum()

    return jit(jax.value_and_grad(loss))(variables["params"])

  value, grads = value_and_grad(model, variables)
  scale = max(np.abs(g).max() for g in jax.tree.leaves(grads))
  for option in options:
    other = create(name, **option)
    scans = option.get("scan", False)
    got, got_grads = value_and_grad(other, stacking.stack(variables) if scans else variables)
    np.testing.assert_allclose(got, value, rtol=1e-4, err_msg=str(option))
    got_grads = stacking.unstack(got_grads) if scans else got_grads
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * scale), got_grads, grads
    )


@every_model
def test_rounding_kernels_before_the_scan_changes_nothing(name):
  model = create(name, scan=True, dtype="bfloat16")
  variables, images = variables_of(model), images_for(model)
  mesh, seen = parallel.make_mesh(devices=jax.devices()[:1]), []

  def apply(narrow):
    def function(params):
      seen.append({x.dtype.name for x in jax.tree.leaves(params)})
      return model.apply({**variables, "params": params}, images).logits

    replicated = jax.tree.map(lambda _: parallel.replicated(mesh), variables["params"])
    return jit(gathering.where_used(function, replicated, narrow=narrow))(variables["params"])

  np.testing.assert_array_equal(apply(True), apply(False))
  convolutions = name.startswith(("BiT", "ResNet"))
  assert ["bfloat16" in dtypes for dtypes in seen] == [not convolutions, False]


@every_model
@pytest.mark.parametrize("rate", ["dropout", "drop_path", "attention_dropout"])
def test_random_parts_act_in_training_only(name, rate):
  if not has(name, rate):
    pytest.skip(f"{name} has no {rate}")
  plain, model = create(name, **{rate: 0.0}), create(name, **{rate: 0.5})
  variables, images = variables_of(plain), images_for(plain)
  assert program(model, variables, images) == program(plain, variables, images)

  @jit
  def train(key):
    out, _ = model.apply(
      variables, images, train=True, rngs={"dropout": key}, mutable=["batch_stats"]
    )
    return out.logits

  a, b = map(train, jax.random.split(jax.random.key(0)))
  assert np.abs(a - b).max() > 1e-4


def expected_intermediates(params):
  """The name that each MLP, each attention and each bottleneck must give, by the parameters."""
  out = set()
  for path in flatten_dict(params, sep="/"):
    module, _, leaf = path.rpartition("/up/kernel")
    if module and not leaf:
      out.add(f"{module}/mlp_activations")
    module, _, leaf = path.rpartition("/query/kernel")
    if module and not leaf and "features" not in params.get(module, {}):  # performers have none
      out.add(f"{module}/attention_weights")
    module, _, leaf = path.rpartition("/conv1/kernel")
    if module and not leaf:
      out.add(f"{module}/activations")
  return out | ({"seq_pool/attention_weights"} if "seq_pool" in params else set())


@every_model
@pytest.mark.parametrize("options", [dict(), dict(scan=True), dict(scan=True, remat="full")])
def test_intermediates_of_every_block_are_named(name, options):
  model = create(name, **options)
  images = images_for(model)
  variables = jax.eval_shape(model.init, jax.random.key(0), images)
  _, state = jax.eval_shape(partial(model.apply, mutable=["intermediates"]), variables, images)
  found = flatten_dict(state["intermediates"], sep="/")
  assert set(found) == expected_intermediates(variables["params"])
  assert {len(values) for values in found.values()} == {1}


@every_model
def test_intermediates_cost_nothing_when_nobody_asks(name, monkeypatch):
  model = create(name)
  images = images_for(model)
  variables = jax.eval_shape(model.init, jax.random.key(0), images)
  assert "intermediates" not in variables
  with_names = program(model, variables, images)
  monkeypatch.setattr(nn.Module, "sow", lambda *_, **__: None)
  assert program(model, variables, images) == with_names


@every_model
def test_who_asks_for_intermediates_gets_the_same_logits(name):
  model = create(name)
  variables, images = variables_of(model), images_for(model)
  out, _ = outputs(model, variables, images, mutable=["intermediates"])
  plain = outputs(model, variables, images)
  np.testing.assert_allclose(plain.logits, out.logits, rtol=1e-5, atol=1e-5)


@every_model
def test_images_of_another_size_are_refused(name):
  model = create(name)
  size = model.image_size
  with pytest.raises(UserError, match=f"made for {size} x {size} pixels"):
    jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, size, size + 2, 3), np.float32))
