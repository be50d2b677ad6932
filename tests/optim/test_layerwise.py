import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vit_jax import models, optim
from vit_jax.errors import UserError
from vit_jax.models import stacking
from vit_jax.optim import groups, layerwise


def shapes(**fields):
  model = models.create("ViT-mu/8", num_classes=10, image_size=16, depth=3, **fields)
  init = lambda: model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))  # noqa: E731
  return jax.eval_shape(init)["params"]


def flat(tree):
  return {groups.path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def test_multipliers_of_a_vit():
  found = flat(layerwise.multipliers(0.5, (), shapes()))
  by_top = {}
  for name, value in found.items():
    parts = name.split("/")
    by_top.setdefault("/".join(parts[: 2 if parts[0] == "encoder" else 1]), set()).add(value)
  assert by_top == {
    "cls": {1 / 16},
    "embedding": {1 / 16},
    "pos_embedding": {1 / 16},
    "encoder/block_0": {1 / 8},
    "encoder/block_1": {1 / 4},
    "encoder/block_2": {1 / 2},
    "encoder_norm": {1.0},
    "head": {1.0},
  }


def test_multipliers_of_scanned_blocks_are_a_vector():
  found = flat(layerwise.multipliers(0.5, (), shapes(scan=True)))
  kernel = found["encoder/blocks/attention/query/kernel"]
  assert kernel.shape == (3, 1, 1, 1)
  np.testing.assert_array_equal(kernel.ravel(), [1 / 8, 1 / 4, 1 / 2])
  assert found["encoder/blocks/norm1/bias"].shape == (3, 1)
  assert found["cls"] == 1 / 16


@pytest.mark.parametrize("scan", [False, True])
def test_blocks_of_stages_are_counted_through(scan):
  a = np.zeros((2, 4))
  tree = {
    "embedding": {"kernel": a},
    "embedding_norm": {"scale": a},
    "stage_0": {"block_0": {"w": a}, "block_1": {"w": a}},
    "merging_1": {"reduction": a},
    "stage_1": {f"block_{i}": {"w": a} for i in range(11)},
    "merging_2": {"reduction": a},
    "stage_2": {"block_0": {"w": a}},
    "class_encoder": {"block_0": {"w": a}, "block_1": {"w": a}},
    "encoder_norm": {"scale": a},
    "head": {"kernel": a},
  }
  layer, last = layerwise.layers(stacking.stack(tree) if scan else tree)
  assert last == 17
  expected = {
    "embedding": {"kernel": 0},
    "embedding_norm": {"scale": 0},
    "stage_0": {"block_0": {"w": 1}, "block_1": {"w": 2}},
    "merging_1": {"reduction": 3},
    "stage_1": {f"block_{i}": {"w": 3 + i} for i in range(11)},
    "merging_2": {"reduction": 14},
    "stage_2": {"block_0": {"w": 14}},
    "class_encoder": {"block_0": {"w": 15}, "block_1": {"w": 16}},
    "encoder_norm": {"scale": 17},
    "head": {"kernel": 17},
  }
  assert (stacking.unstack(layer) if scan else layer) == expected


def test_the_first_block_of_a_convolutional_stage_counts():
  a = np.zeros((2, 4))
  tree = {
    "stem_conv": {"kernel": a},
    "stage_0": {"first": {"w": a}, "rest": {"block_0": {"w": a}, "block_1": {"w": a}}},
    "stage_1": {"first": {"w": a}, "rest": {"blocks": {"w": a}}},
    "norm": {"scale": a},
  }
  layer, last = layerwise.layers(tree)
  np.testing.assert_array_equal(layer["stage_1"]["rest"]["blocks"].pop("w"), [5, 6])
  assert last == 7
  assert layer == {
    "stem_conv": {"kernel": 0},
    "stage_0": {"first": {"w": 1}, "rest": {"block_0": {"w": 2}, "block_1": {"w": 3}}},
    "stage_1": {"first": {"w": 4}, "rest": {"blocks": {}}},
    "norm": {"scale": 7},
  }


def _params(tree, seed=0):
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), tree)


CONFIG = {"name": "adamw", "weight_decay": ((".*kernel.*", 0.1), (".*", 0.0)), "clip_norm": 1.0}


def _update(config, params, grads):
  tx = optim.make(config, params)
  return tx.update(grads, tx.init(params), params, learning_rate=0.01)[0]


def test_a_step_is_the_plain_one_times_the_multiplier_decay_included():
  params, grads = _params(shapes()), _params(shapes(), 1)
  plain = flat(_update(CONFIG, params, grads))
  got = flat(
    _update(
      {**CONFIG, "layer_decay": 0.7, "lr_multipliers": (("head/bias", 3.0), (".*bias", 0.5))},
      params,
      grads,
    )
  )
  factor = {"head/kernel": 1.0, "head/bias": 3.0, "cls": 0.7**4, "encoder/block_1/mlp/up/bias": 0.5}
  factor["encoder/block_1/mlp/up/bias"] *= 0.7**2
  factor["encoder/block_1/mlp/up/kernel"] = 0.7**2
  for name, value in factor.items():
    np.testing.assert_allclose(got[name], value * plain[name], rtol=1e-5, err_msg=name)


def test_scanned_and_unscanned_blocks_step_alike():
  params, grads = _params(shapes()), _params(shapes(), 1)
  config = {**CONFIG, "layer_decay": 0.6}
  a = stacking.stack(_update(config, params, grads))
  b = _update(config, stacking.stack(params), stacking.stack(grads))
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-9), a, b)


def test_switched_off_it_is_no_part_of_the_state():
  params = _params(shapes())
  plain = jax.tree.structure(optim.make(CONFIG, params).init(params))
  off = {**CONFIG, "layer_decay": 1.0, "lr_multipliers": ()}
  assert jax.tree.structure(optim.make(off, params).init(params)) == plain


def test_frozen_parameters_go_with_it():
  params, grads = _params(shapes()), _params(shapes(), 1)
  frozen = optim.frozen.mask(("encoder/block_0/.*", "cls"), params)
  tx = optim.make({**CONFIG, "layer_decay": 0.5}, params, frozen=frozen)
  updates, _ = tx.update(grads, tx.init(params), params, learning_rate=0.01)
  assert not np.any(updates["cls"])
  assert optax.tree.norm(updates["encoder"]["block_0"]) == 0
  assert optax.tree.norm(updates["encoder"]["block_1"]) > 0


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"layer_decay": 0.0}, "layer_decay must be above 0.*config.freeze"),
    ({"layer_decay": 1.1}, "layer_decay must be a number in"),
    ({"lr_multipliers": (("head/.*", 0.0),)}, "above 0.*config.freeze"),
    ({"lr_multipliers": (("heat/.*", 2.0),)}, "lr_multipliers pattern 'heat/.*' matches no param"),
    ({"lr_multipliers": ("head/.*", 2.0)}, "lr_multipliers must be a list of"),
  ],
)
def test_mistakes_are_named(options, message):
  with pytest.raises(UserError, match=message):
    optim.make(CONFIG | options, shapes())


def test_a_parameter_in_an_unknown_place_is_named():
  with pytest.raises(UserError, match="does not know the layer of 'mystery/kernel'"):
    layerwise.multipliers(0.5, (), shapes() | {"mystery": {"kernel": np.zeros(2)}})
