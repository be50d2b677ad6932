"""The ViT against an independent NumPy version."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_vit
import pytest
from modeling import apply, jit, random_images, random_params, tiny

from vit_jax.errors import UserError
from vit_jax.models import stacking

TOLERANCE = dict(rtol=1e-5, atol=1e-5)

CASES = [
  dict(pool=pool, posemb=posemb)
  for pool in ("tok", "gap", "map")
  for posemb in ("learn", "sincos2d")
]
CASES += [
  dict(cls_position=False),
  dict(gelu="erf", pool="map"),
  dict(pre_logits=True),
  dict(patch_size=4, image_size=12),
]


def numpy_outputs(model, params, images, form=None, dtype=np.float64):
  params = jax.tree.map(lambda x: x.astype(dtype), params)
  return numpy_vit.forward(params, images.astype(dtype), model, form or model.gelu)


@pytest.mark.parametrize("overrides", CASES, ids=str)
def test_forward_equals_numpy(overrides):
  model = tiny(**overrides)
  params, images = random_params(model), random_images(model)
  logits, features = numpy_outputs(model, params, images)
  out = apply(model, params, images)
  np.testing.assert_allclose(out.features, features, **TOLERANCE)
  np.testing.assert_allclose(out.logits, logits, **TOLERANCE)
  assert out.logits.dtype == out.features.dtype == jnp.float32
  assert out.distilled_logits is None


@pytest.mark.parametrize("form", ["tanh", "erf"])
def test_the_other_gelu_fails_the_comparison(form):
  model = tiny(gelu=form)
  params, images = random_params(model), random_images(model)
  logits, _ = numpy_outputs(model, params, images, {"tanh": "erf", "erf": "tanh"}[form])
  assert not np.allclose(apply(model, params, images).logits, logits, **TOLERANCE)


@pytest.mark.parametrize("pool", ["tok", "gap", "map"])
def test_every_parameter_matters(pool):
  model = tiny(pool=pool)
  params, images = random_params(model), random_images(model)
  weight = np.random.default_rng(2).normal(size=(3, 5))
  grads = jit(jax.grad(lambda p: (model.apply({"params": p}, images).logits * weight).sum()))(
    params
  )
  for path, g in jax.tree_util.tree_leaves_with_path(grads):
    if path[-2:] != (jax.tree_util.DictKey("key"), jax.tree_util.DictKey("bias")):
      assert np.abs(g).max() > 1e-3, path
    else:  # the same number added to all scores of a query, which the softmax removes
      assert np.abs(g).max() < 1e-5, path


@pytest.mark.parametrize(
  "overrides", [dict(pool="map"), dict(scan=True), dict(gelu="erf")], ids=str
)
def test_gradient_equals_finite_differences_of_numpy(overrides):
  model = tiny(**overrides)
  flat = random_params(tiny(**{**overrides, "scan": False}))
  images = random_images(model)
  weight = np.random.default_rng(2).normal(size=(3, 5))
  layout = stacking.stack if model.scan else lambda p: p
  grads = jit(jax.grad(lambda p: (model.apply({"params": p}, images).logits * weight).sum()))(
    layout(flat)
  )
  rng = np.random.default_rng(3)
  direction = jax.tree.map(lambda x: rng.normal(size=x.shape), flat)

  def along(step):
    moved = jax.tree.map(lambda p, d: p.astype(np.float64) + step * d, flat, direction)
    return (
      numpy_vit.forward(moved, images.astype(np.float64), model, model.gelu)[0] * weight
    ).sum()

  expected = (along(1e-5) - along(-1e-5)) / 2e-5
  slope = sum(
    jax.tree.leaves(jax.tree.map(lambda g, d: (np.float64(g) * d).sum(), grads, layout(direction)))
  )
  np.testing.assert_allclose(slope, expected, rtol=1e-4)


def test_bfloat16_computes_close_by_with_float32_parameters_and_outputs():
  model = tiny(pool="map")
  params, images = random_params(model), random_images(model)
  exact = apply(model, params, images)
  rough_model = tiny(pool="map", dtype="bfloat16")
  rough = apply(rough_model, params, images)
  assert rough.logits.dtype == rough.features.dtype == jnp.float32
  error = np.abs(rough.logits - exact.logits).max() / np.abs(exact.logits).max()
  assert 1e-5 < error < 0.03  # below: nothing was computed in bfloat16
  variables = jax.eval_shape(rough_model.init, jax.random.key(0), images)
  assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_softmax_and_norm_statistics_are_float32_under_bfloat16():
  model = tiny(dtype="bfloat16")
  jaxpr = str(
    jax.make_jaxpr(lambda p, x: model.apply({"params": p}, x))(
      random_params(model), random_images(model)
    )
  )
  for op in ("exp ", "rsqrt "):
    lines = [line for line in jaxpr.splitlines() if f"= {op}" in line]
    assert lines
    assert all(":f32" in line for line in lines)
  assert any(":bf16" in line for line in jaxpr.splitlines() if "= dot_general" in line)


def test_images_of_another_size_are_refused():
  model = tiny()
  with pytest.raises(UserError, match="made for 8 x 8 pixels, the images have 8 x 6"):
    model.init(jax.random.key(0), np.zeros((1, 8, 6, 3)))
  with pytest.raises(UserError, match=r"\[batch, height, width, channels\], got shape \(8, 8, 3\)"):
    model.init(jax.random.key(0), np.zeros((8, 8, 3)))


@pytest.mark.parametrize("channels", [1, 4])
def test_channels_come_from_the_images(channels):
  variables = jax.eval_shape(tiny().init, jax.random.key(0), np.zeros((1, 8, 8, channels)))
  assert variables["params"]["embedding"]["kernel"].shape == (2, 2, channels, 16)


@pytest.mark.parametrize("pool", ["tok", "gap", "map"])
def test_only_positions_know_where_a_patch_is(pool):
  model = tiny(pool=pool)
  params, images = random_params(model), random_images(model)
  turned = images.reshape(3, 4, 2, 4, 2, 3)[:, ::-1].reshape(images.shape)  # rows of patches
  placed = [apply(model, params, x).features for x in (images, turned)]
  assert not np.allclose(*placed, atol=1e-2)
  params["pos_embedding"] *= 0
  np.testing.assert_allclose(
    *(apply(model, params, x).features for x in (images, turned)), **TOLERANCE
  )
