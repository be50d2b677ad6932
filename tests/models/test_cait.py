"""CaiT: counts, initialisation, and what class attention and stochastic depth promise.

The forward pass is compared with NumPy in tests/pretrained, by the names of the public files.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from modeling import apply, jit, random_images, random_params, shapes

from vit_jax import flops, models
from vit_jax.errors import UserError
from vit_jax.models import cait, stacking

# Resolution, parameters and 10^9 multiply-adds with 1000 classes, counted from timm's modules.
PUBLISHED = [
  ("CaiT-XXS24", 224, 11_956_264, 2.5235),
  ("CaiT-XXS24", 384, 12_029_224, 9.5991),
  ("CaiT-XXS36", 224, 17_299_720, 3.7557),
  ("CaiT-XXS36", 384, 17_372_680, 14.3130),
  ("CaiT-XS24", 224, 26_560_648, 5.3904),
  ("CaiT-XS24", 384, 26_670_088, 19.2406),
  ("CaiT-S24", 224, 46_916_200, 9.3273),
  ("CaiT-S24", 384, 47_062_120, 32.1101),
  ("CaiT-S36", 224, 68_220_712, 13.9022),
  ("CaiT-S36", 384, 68_366_632, 47.9080),
  ("CaiT-M36", 224, 270_929_512, 53.3675),
  ("CaiT-M36", 384, 271_221_352, 172.9437),
]


def tiny(**overrides):
  fields = dict(width=16, depth=3, mlp_dim=24, num_heads=2, patch_size=2, num_classes=5)
  return models.create("CaiT-XXS24", **{**fields, "image_size": 8, "drop_path": 0.0, **overrides})


def published(name, image_size):
  return models.create(name, num_classes=1000, image_size=image_size, scan=True)


def count(model):
  return sum(x.size for x in jax.tree.leaves(shapes(model)))


@pytest.mark.parametrize(("name", "image_size", "parameters", "gmac"), PUBLISHED)
def test_parameters_and_flops(name, image_size, parameters, gmac):
  model = published(name, image_size)
  assert count(model) == parameters
  assert flops.model_flops(model, image_size) == pytest.approx(2e9 * gmac, rel=1e-4)


@pytest.mark.parametrize(
  ("name", "image_size", "millions", "gmac"),
  [("CaiT-M24", 224, 185.9, 36.0), ("CaiT-M48", 448, 356, 329.6)],
)
def test_sizes_that_the_paper_prints(name, image_size, millions, gmac):
  model = published(name, image_size)
  assert count(model) / 1e6 == pytest.approx(millions, rel=2e-3)
  assert flops.model_flops(model, image_size) / 2e9 == pytest.approx(gmac, rel=1e-2)


def test_unrolled_has_as_many_parameters():
  assert count(models.create("CaiT-XXS24", num_classes=1000, image_size=224)) == 11_956_264


LAYER_SCALE = {
  **{f"CaiT-{size}24": 1e-5 for size in ("XXS", "XS", "S", "M")},
  "CaiT-XXS36": 1e-5,
  **{name: 1e-6 for name in ("CaiT-S36", "CaiT-M36", "CaiT-M48")},
}


# Table 3; M48, which is not in it, goes on as M24 and M36.
DROP_PATH = {
  **{"CaiT-XXS24": 0.05, "CaiT-XXS36": 0.1, "CaiT-XS24": 0.05, "CaiT-S24": 0.1, "CaiT-S36": 0.2},
  **{"CaiT-M24": 0.2, "CaiT-M36": 0.3, "CaiT-M48": 0.4},
}


@pytest.mark.parametrize("name", DROP_PATH)
def test_stochastic_depth_of_the_variants(name):
  assert published(name, 224).drop_path == DROP_PATH[name]


def initialize(model):
  images = jnp.zeros((1, model.image_size, model.image_size, 3))
  variables = jit(lambda key: model.init(key, images))(jax.random.key(0))
  return {k: np.asarray(x) for k, x in flatten_dict(variables["params"], sep="/").items()}


@pytest.mark.parametrize("name", LAYER_SCALE)
def test_layer_scale_of_the_variants(name):
  model = published(name, 224)
  start = model.layer_scale or cait.layer_scale_start(model.depth)
  assert start == LAYER_SCALE[name]


@pytest.mark.parametrize(
  ("overrides", "start"),
  [
    (dict(depth=18), 0.1),
    (dict(depth=19), 1e-5),
    (dict(depth=25), 1e-6),
    (dict(layer_scale=2), 2),
  ],
)
def test_layer_scale_starts_there_in_every_block(overrides, start):
  model = tiny(scan=True, **overrides)
  found = {k: x for k, x in initialize(model).items() if "layer_scale" in k}
  assert {k: x.shape for k, x in found.items()} == {
    f"{part}/blocks/layer_scale{i}": (n, 16)
    for part, n in (("encoder", model.depth), ("class_encoder", 2))
    for i in (1, 2)
  }
  assert all((x == np.float32(start)).all() for x in found.values())


def test_initialisation():
  params = initialize(tiny(width=96, mlp_dim=192, depth=2, patch_size=8, image_size=64))
  for path, x in params.items():
    if path == "embedding/kernel":
      bound = (8 * 8 * 3) ** -0.5
      assert 0.98 * bound < np.abs(x).max() <= bound
    elif path.endswith("kernel") and "talk" not in path or path == "pos_embedding":
      assert x.std() == pytest.approx(0.02, rel=0.1), path
    elif path.endswith("bias"):
      assert not x.any(), path
  assert 0.01 < params["cls"].std() < 0.03
  talks = np.concatenate([x.ravel() for k, x in params.items() if "talk" in k and "kernel" in k])
  assert 0.01 < talks.std() < 0.03


def test_patches_do_not_see_the_class_token():
  # With class attention that adds nothing, features are the class token alone.
  model = tiny()
  params, images = random_params(model), random_images(model)
  for i in range(2):
    block = params["class_encoder"][f"block_{i}"]
    block["layer_scale1"] = block["layer_scale1"] * 0
  features = apply(model, params, images).features
  np.testing.assert_allclose(features[1:], features[:1].repeat(2, 0), atol=1e-6)
  (_, patches), (_, others) = (
    streams(model, {**params, "cls": params["cls"] * scale}, images) for scale in (1, -2)
  )
  np.testing.assert_array_equal(patches, others)


def streams(model, params, images, **kwargs):
  """(class token, patches) after class attention."""
  _, state = jit(
    lambda p, x: model.apply(
      {"params": p},
      x,
      capture_intermediates=lambda module, _: module.name == "class_encoder",
      **kwargs,
    )
  )(params, images)
  return jax.device_get(state["intermediates"]["class_encoder"]["__call__"][0])


@pytest.mark.parametrize("scan", [False, True])
def test_drop_path_has_one_rate_and_spares_class_attention(scan):
  # Branches that add a constant to a channel: the patches then count which branches were kept.
  depth, rate, batch = 3, 0.4, 3000
  model = tiny(depth=depth, drop_path=rate, scan=scan)
  params = random_params(tiny(depth=depth))
  for part, n in (("encoder", depth), ("class_encoder", 2)):
    for i in range(n):
      block = params[part][f"block_{i}"]
      for j, (layer, last) in enumerate((("attention", "out"), ("mlp", "down"))):
        leaf = block[layer][last]
        leaf["kernel"] = leaf["kernel"] * 0
        leaf["bias"] = np.float32(np.arange(16) == 2 * i + j) * 100
        block[f"layer_scale{j + 1}"] = np.ones(16, np.float32)
  params = stacking.stack(params) if scan else params
  black = np.zeros((batch, 8, 8, 3), np.float32)
  cls, patches = streams(model, params, black, train=True, rngs={"dropout": jax.random.key(7)})
  kept = patches[:, 0, : 2 * depth] > 50
  np.testing.assert_array_equal(kept, patches[:, -1, : 2 * depth] > 50)
  np.testing.assert_allclose(kept.mean(0), 1 - rate, atol=4 * np.sqrt(0.25 / batch))
  assert np.abs(np.corrcoef(kept.T) - np.eye(2 * depth)).max() < 5 / np.sqrt(batch)
  assert (np.abs(cls[:, 0, :4] - 100) < 5).all()  # neither dropped nor divided


def test_dropouts_spare_class_attention():
  model = tiny(dropout=0.5, attention_dropout=0.5, drop_path=0.5)
  params, images = random_params(model), random_images(model)
  for i in range(3):  # nothing random is left but the dropout after the positions
    block = params["encoder"][f"block_{i}"]
    block["layer_scale1"], block["layer_scale2"] = np.zeros((2, 16), np.float32)
  params["pos_embedding"] *= 0
  params["embedding"]["bias"] *= 0
  black = np.zeros_like(images)
  features = jit(
    lambda key: model.apply({"params": params}, black, train=True, rngs={"dropout": key}).features
  )
  np.testing.assert_array_equal(*(features(jax.random.key(i)) for i in range(2)))


@pytest.mark.parametrize("scan", [False, True])
def test_both_kinds_of_attention_can_be_looked_at(scan):
  model = tiny(scan=scan, dtype="bfloat16")
  _, state = model.apply(
    {"params": random_params(model)}, random_images(model), mutable=["intermediates"]
  )
  for part, depth, shape in (("encoder", 3, (3, 2, 16, 16)), ("class_encoder", 2, (3, 2, 1, 17))):
    blocks = state["intermediates"][part]
    block = blocks["blocks"] if scan else blocks[f"block_{depth - 1}"]
    (weights,) = block["attention"]["attention_weights"]
    assert weights.shape == ((depth, *shape) if scan else shape)
    np.testing.assert_allclose(np.float32(weights).sum(-1), 1, atol=0.02)
    assert "mlp_activations" in block["mlp"]


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    (dict(image_size=9), "image_size=9 is not a multiple of patch_size=2: use 8 or another"),
    (dict(num_heads=3), "width=16 is not a multiple of num_heads=3"),
    (dict(layer_scale=0), "model field layer_scale must be above 0, got 0"),
    (dict(layer_scale="1e-5"), "model field layer_scale must be a finite number, got '1e-5'"),
    (dict(pool="map"), "unknown field of CaiT 'pool'"),
  ],
)
def test_wrong_overrides_are_one_clear_line(overrides, message):
  with pytest.raises(UserError) as e:
    tiny(**overrides)
  assert str(e.value).startswith(message)


def test_unknown_names_say_the_nearest():
  with pytest.raises(UserError, match="did you mean CaiT-S24"):
    models.create("CaiT-s24", num_classes=2, image_size=224)
