"""T2T-ViT: its published sizes, windows, token blocks, and start."""

import itertools
import math
import re

import jax
import numpy as np
import pytest
from modeling import apply, jit, random_images, random_params, shapes
from shrunken import create

from vit_jax import flops, models
from vit_jax.errors import UserError
from vit_jax.models import soft_split, t2t
from vit_jax.models.positions import sincos1d

# 224 px, 1000 classes: parameters, those of them in frozen tables, and billions of multiply-adds,
# of the official networks.
PUBLISHED = {
  "T2T-ViT-7": (4_310_222, 54_528, 1.1469),
  "T2T-ViT-10": (5_889_230, 54_528, 1.5163),
  "T2T-ViT-12": (6_941_902, 54_528, 1.7626),
  "T2T-ViT-14": (21_545_550, 79_744, 4.7835),
  "T2T-ViT-19": (39_177_422, 92_352, 8.4797),
  "T2T-ViT-24": (64_105_934, 104_960, 13.6619),
  "T2T-ViT_t-14": (21_541_070, 75_648, 6.0887),
  "T2T-ViT_t-19": (39_172_942, 88_256, 9.7849),
  "T2T-ViT_t-24": (64_101_454, 100_864, 14.9671),
}
NAMES = ["T2T-ViT-7", "T2T-ViT_t-14"]


def by_path(params):
  leaves = jax.tree_util.tree_leaves_with_path(params)
  return {"/".join(key.key for key in path): leaf for path, leaf in leaves}


@pytest.mark.parametrize("name", t2t.FAMILY.names)
def test_sizes_are_the_published_ones(name):
  parameters, frozen, gmac = PUBLISHED[name]
  model = models.create(name, num_classes=1000, image_size=224, scan=True)
  sizes = {path: x.size for path, x in by_path(shapes(model)).items()}
  assert sum(sizes.values()) == parameters
  tables = [n for path, n in sizes.items() if any(re.fullmatch(p, path) for p in model.frozen)]
  assert sum(tables) == frozen
  assert flops.model_flops(model, 224) == pytest.approx(2e9 * gmac, rel=1e-4)


@pytest.mark.parametrize("name", t2t.FAMILY.names)
def test_rates_of_the_official_training(name):
  model = models.create(name, num_classes=2, image_size=224)
  assert model.drop_path == 0.1
  assert model.token_dropout == (0.0 if "_t" in name else 0.1)
  assert model.dropout == 0.0


@pytest.mark.parametrize(("stride", "kernel", "padding"), [(4, 7, 2), (2, 3, 1), (1, 3, 1)])
@pytest.mark.parametrize("size", [8, 9, 11])
def test_soft_split_lists_windows_channel_by_channel(stride, kernel, padding, size):
  x = np.float32(np.random.default_rng(0).normal(size=(2, size, size, 3)))
  padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
  side = (size + 2 * padding - kernel) // stride + 1
  expected = np.zeros((2, side, side, 3 * kernel * kernel), np.float32)
  for row, column in np.ndindex(side, side):
    for c, i, j in np.ndindex(3, kernel, kernel):
      pixel = padded[:, row * stride + i, column * stride + j, c]
      expected[:, row, column, (c * kernel + i) * kernel + j] = pixel
  np.testing.assert_array_equal(jit(lambda x: soft_split.soft_split(x, stride))(x), expected)


def test_grids_cover_the_image():
  assert soft_split.grids(224, (4, 2, 2)) == [56, 28, 14]
  assert soft_split.grids(384, (4, 2, 2)) == [96, 48, 24]
  assert soft_split.grids(32, (2, 2, 1)) == [16, 8, 8]
  assert soft_split.grids(32, (1, 2, 2)) == [32, 16, 8]
  for stride in range(1, 6):
    kernel, padding = soft_split.window(stride)
    for size in range(1, 30):
      windows = max(0, math.floor((size + 2 * padding - kernel) / stride) + 1)
      seen = {r * stride - padding + i for r in range(windows) for i in range(kernel)}
      expected = windows if set(range(size)) <= seen else 0
      assert soft_split.grid(size, stride) == expected, (size, stride)


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    (dict(image_size=226), "image_size=226 does not fit: soft splits with strides=(4, 2, 2) leave"),
    (dict(image_size=226), "use 227 or other strides"),
    (dict(image_size=2), "use 3 or other strides"),
    (dict(image_size=32, strides=(3, 2, 1)), "use 33 or other strides"),
    (dict(strides=(4, 4)), "strides=(4, 4) must be three, one for each soft split"),
    (dict(num_heads=3), "width=256 is not a multiple of num_heads=3"),
    (dict(token_width=7), "token_width=7 must be even"),
    (dict(token_block="conv"), 'token_block must be one of "performer", "transformer", got'),
    (dict(attention_scale=0.1), 'attention_scale must be one of "head", "width", got 0.1'),
  ],
)
def test_contradictions_are_one_clear_line(overrides, message):
  with pytest.raises(UserError) as e:
    models.create("T2T-ViT-7", **{**dict(num_classes=2, image_size=224), **overrides})
  assert message in str(e.value)
  assert "\n" not in str(e.value)


def test_unknown_names_say_the_nearest():
  with pytest.raises(UserError, match="did you mean T2T-ViT-1"):
    models.create("T2T-ViT-15", num_classes=2, image_size=224)
  with pytest.raises(UserError, match="did you mean T2T-ViT_t-"):
    models.create("t2t-vit_t-24", num_classes=2, image_size=224)


def test_positions_are_sines_and_cosines_in_turn():
  table = sincos1d(7, 6)
  assert table.shape == (1, 7, 6)
  assert table.dtype == np.float32
  for p in range(7):
    for j in range(6):
      angle = p / 10_000 ** (2 * (j // 2) / 6)
      expected = math.cos(angle) if j % 2 else math.sin(angle)
      assert table[0, p, j] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_start_is_that_of_the_official_code(name):
  model = models.create(name, num_classes=50, image_size=32, depth=2, scan=True)
  params = jit(model.init)(jax.random.key(0), random_images(model, 1))["params"]
  for path, x in by_path(params).items():
    if path.endswith("bias"):
      assert not x.any(), path
    elif path.endswith("scale"):
      assert (x == 1).all(), path
    elif path.endswith("features"):
      np.testing.assert_allclose(x @ x.T, 32 * np.eye(32), atol=1e-4)
    elif path == "pos_embedding":
      np.testing.assert_array_equal(x, sincos1d(5, model.width))
    else:  # kernels and the class token
      assert x.std() == pytest.approx(0.02, rel=0.15 if path == "cls" else 0.03), path
  if name == "T2T-ViT-7":
    first, second = (params[f"tokens_{i}"]["features"] for i in range(2))
    assert np.abs(first - second).max() > 0.1


def test_token_transformers_show_their_weights():
  model = create("T2T-ViT_t-14")
  params, images = random_params(model), random_images(model)
  _, state = apply(model, params, images, mutable=["intermediates"])
  for i, side in enumerate((6, 3)):
    (weights,) = state["intermediates"][f"tokens_{i}"]["attention_weights"]
    assert weights.shape == (3, 1, side**2, side**2)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)


def test_random_features_approximate_the_softmax():
  rng = np.random.default_rng(0)
  key, query, value = rng.uniform(-1, 1, size=(3, 1, 10, 4))
  features = rng.normal(size=(300_000, 4))
  scores = np.exp(query[0] @ key[0].T)
  expected = scores / scores.sum(1, keepdims=True) @ value[0]
  mixed = jit(soft_split.performer_attention)(query, key, value, features)
  np.testing.assert_allclose(mixed[0], expected, atol=0.02)
  assert np.abs(expected - value[0].mean(0)).max() > 0.2  # the weights are far from equal


def test_performers_stay_finite_and_in_float32_under_bfloat16():
  model = create("T2T-ViT-7", dtype="bfloat16")
  params, images = random_params(model), random_images(model)
  jaxpr = str(jax.make_jaxpr(lambda p, x: model.apply({"params": p}, x))(params, images))
  lines = [line for line in jaxpr.splitlines() if "= exp " in line]
  assert len(lines) >= 4
  assert all(":f32" in line for line in lines)
  loss = jit(jax.value_and_grad(lambda p: (model.apply({"params": p}, images).logits ** 2).sum()))
  for size in (1.0, 10.0, 1000.0):  # of keys and queries: features from about 1 to exactly 0
    for i, part in itertools.product(range(2), ("key", "query")):
      kernel = params[f"tokens_{i}"][part]["kernel"]
      params[f"tokens_{i}"][part]["kernel"] = np.float32(kernel * size / kernel.std())
    value, grads = loss(params)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("name", NAMES)
def test_token_dropout_acts_in_training_only(name):
  plain, model = create(name, token_dropout=0.0, drop_path=0.0), create(name, token_dropout=0.5)
  params, images = random_params(plain), random_images(plain)
  np.testing.assert_array_equal(
    apply(plain, params, images).logits, apply(model, params, images).logits
  )
  rngs = {"dropout": jax.random.key(0)}
  trained = [apply(m, params, images, train=True, rngs=rngs).logits for m in (plain, model)]
  assert np.abs(trained[0] - trained[1]).max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_remat_covers_the_token_blocks(name):
  def blocks(**overrides):
    model = create(name, **overrides)
    jaxpr = jax.make_jaxpr(lambda p, x: model.apply({"params": p}, x))
    nested = jaxpr(random_params(model), random_images(model)).eqns
    return sum(eqn.primitive.name == "remat2" for eqn in nested)

  # With remat: two token blocks, two of the backbone, and the last norm, which always is one.
  assert blocks(remat="full") == 5
  assert blocks() == 4 * 3 + 1  # the norms and the GELU of each block
