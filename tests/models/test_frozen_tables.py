"""Constant tables among the parameters: used, saved, and never trained."""

import re
import typing

import jax
import numpy as np
import pytest
from modeling import jit, shapes
from shrunken import SHRUNKEN, create

from vit_jax import optim
from vit_jax.models import catalogue, fields
from vit_jax.optim.groups import path_name


def cases():
  """Each class with tables, as it is and with the positions that make it have one."""
  for name in SHRUNKEN:
    module = catalogue.find(name).module
    if hasattr(module, "frozen"):
      posemb = fields.annotations(module).get("posemb")
      options = [{}] if posemb is None else [{"posemb": p} for p in typing.get_args(posemb)]
      for overrides in options:
        if create(name, **overrides).frozen:
          yield pytest.param(name, overrides, id=" ".join([name, *overrides.values()]))


every_table = pytest.mark.parametrize(("name", "overrides"), list(cases()))


def start(name, overrides):
  """Returns (model, random parameters with a class's own tables, images)."""
  model = create(name, **overrides)
  rng = np.random.default_rng(0)
  images = np.float32(rng.normal(size=(4, model.image_size, model.image_size, 3)))
  tables = jit(model.init)(jax.random.key(0), images[:1])["params"]

  def draw(path, leaf):
    x = 0.2 * rng.normal(size=leaf.shape)
    random = np.float32(x + 1 if path[-1].key == "scale" else x)
    return np.asarray(leaf) if is_frozen(model, path) else random

  return model, jax.tree_util.tree_map_with_path(draw, tables), images


def is_frozen(model, path):
  return any(re.fullmatch(pattern, path_name(path)) for pattern in model.frozen)


def gradient(model, params, images):
  weight = np.random.default_rng(2).normal(size=(len(images), 5))

  def loss(p):
    return (model.apply({"params": p}, images).logits * weight).sum()

  return jit(jax.grad(loss))(params)


def test_there_are_tables():
  assert {"T2T-ViT-7", "CCT-2/3x1"} <= {case.values[0] for case in cases()}


@every_table
def test_patterns_name_parameters_in_either_layout(name, overrides):
  has_scan = "scan" in fields.annotations(catalogue.find(name).module)
  for more in [{}, {"scan": True}] if has_scan else [{}]:
    model = create(name, **overrides, **more)
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes(model))]
    assert any(re.fullmatch(p, n) for p in model.frozen for n in names)
    if more:
      assert model.frozen == create(name, **overrides).frozen


@every_table
def test_tables_get_no_gradient_and_all_else_does(name, overrides):
  model, params, images = start(name, overrides)
  for path, g in jax.tree_util.tree_leaves_with_path(gradient(model, params, images)):
    if is_frozen(model, path):
      assert not g.any(), path
    elif path[-1].key != "bias":  # some of these a softmax takes away
      assert np.abs(g).max() > 1e-6, path


@every_table
def test_tables_are_read_from_the_parameters(name, overrides):
  model, params, images = start(name, overrides)
  logits = jit(lambda p: model.apply({"params": p}, images).logits)
  before = logits(params)
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    if is_frozen(model, path):
      other = jax.tree_util.tree_map_with_path(
        lambda p, x, path=path, leaf=leaf: leaf[:, ::-1] if p == path else x, params
      )
      assert np.abs(logits(other) - before).max() > 1e-4, path


@every_table
def test_the_optimiser_leaves_tables_and_treats_all_else_as_before(name, overrides):
  model, params, images = start(name, overrides)
  grads = gradient(model, params, images)
  flags = optim.frozen.mask((), params, model.frozen)
  # Decay would shrink the tables; clipping would let them have a say in all other steps.
  config = dict(name="adamw", weight_decay=((".*", 0.1),), clip_norm=1.0)
  steps = []
  for frozen in (flags, None):
    tx = optim.make(config, params, frozen=frozen)
    update, _ = jit(lambda g, p, tx=tx: tx.update(g, tx.init(p), p, learning_rate=0.1))(
      grads, params
    )
    steps.append(update)
  for (path, with_flags), without in zip(
    jax.tree_util.tree_leaves_with_path(steps[0]), jax.tree.leaves(steps[1]), strict=True
  ):
    if is_frozen(model, path):
      assert not with_flags.any(), path
      assert np.asarray(without).any(), path
    else:
      np.testing.assert_allclose(with_flags, without, rtol=1e-5, atol=1e-7)
      assert np.abs(with_flags).max() > 0, path
