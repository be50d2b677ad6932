"""ViT-Lite, CVT and CCT: counts, tokens, positions, pooling and initialisation."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from modeling import apply, jit, random_images, random_params, shapes

from vit_jax import cli, flops, models
from vit_jax.errors import UserError
from vit_jax.models import compact, conv_tokenizer
from vit_jax.models.max_pool import max_pool

SIZES = dict(width=16, depth=2, mlp_dim=24, num_heads=2, num_classes=5, image_size=12)


def tiny(name="CCT-2/3x1", **overrides):
  return models.create(name, **{**SIZES, **overrides})


def count(model):
  return sum(x.size for x in jax.tree.leaves(shapes(model)))


# Parameters of the official code, and its multiply-adds (10^9) as PyTorch counts them.
PUBLISHED = {
  ("ViT-Lite-2/4", 32, 10): (214_666, 0.0153),
  ("ViT-Lite-4/4", 32, 10): (413_066, 0.0303),
  ("ViT-Lite-6/4", 32, 10): (3_190_538, 0.2182),
  ("ViT-Lite-7/4", 32, 10): (3_716_874, 0.2545),
  ("CVT-2/4", 32, 10): (214_539, 0.0151),
  ("CVT-4/4", 32, 10): (412_939, 0.0298),
  ("CVT-6/4", 32, 10): (3_190_283, 0.2147),
  ("CVT-7/4", 32, 10): (3_716_619, 0.2504),
  ("CCT-2/3x2", 32, 10): (283_723, 0.0353),
  ("CCT-4/3x2", 32, 10): (482_123, 0.0500),
  ("CCT-6/3x1", 32, 10): (3_233_803, 1.0138),
  ("CCT-6/3x2", 32, 10): (3_326_923, 0.2535),
  ("CCT-7/3x1", 32, 10): (3_760_139, 1.1816),
  ("CCT-7/3x2", 32, 10): (3_853_259, 0.2891),
  ("CCT-7/3x1", 32, 100): (3_783_269, 1.1816),
  ("CCT-7/7x2", 224, 102): (4_573_735, 1.6046),
  ("CCT-14/7x2", 224, 1000): (22_367_273, 5.5219),
  ("CCT-14/7x2", 384, 1000): (22_513_193, 18.5803),
}


@pytest.mark.parametrize("variant", PUBLISHED, ids=str)
def test_parameters_and_flops(variant):
  name, size, classes = variant
  parameters, gmac = PUBLISHED[variant]
  model = models.create(name, image_size=size, num_classes=classes, scan=True)
  assert count(model) == parameters
  assert flops.model_flops(model, size) / 2e9 == pytest.approx(gmac, abs=6e-5)


# In millions, of the paper's Table 3 and of the examples of the official code.
@pytest.mark.parametrize(
  ("name", "millions"),
  [
    ("ViT-Lite-7/16", 3.89),
    ("ViT-Lite-7/8", 3.74),
    ("ViT-Lite-7/4", 3.72),
    ("CVT-7/8", 3.74),
    ("CCT-2/3x2", 0.284),
  ],
)
def test_rounded_parameters(name, millions):
  model = models.create(name, image_size=32, num_classes=10, scan=True)
  assert count(model) / 1e6 == pytest.approx(millions, abs=0.006)


def test_counts_of_other_options():
  create = functools.partial(models.create, "CCT-6/3x1", image_size=32, num_classes=10)
  assert count(create(scan=False)) == 3_233_803
  # The fixed table is a parameter in the official code too; and its README's 3.168M is without.
  assert count(create(posemb="sine")) == 3_233_803
  assert count(create(posemb="none")) == 3_233_803 - 256 * 256 == 3_168_267
  lite = models.create("ViT-Lite-7/4", image_size=32, num_classes=10, posemb="sine", scan=True)
  assert count(lite) == 3_716_874
  assert shapes(lite)["pos_embedding"].size == 16_640


def test_every_listed_name_is_the_published_model():
  for name in compact.FAMILY.names:
    variant = models.find(name)
    model = models.create(
      name, image_size=variant.image_size, num_classes=variant.num_classes, scan=True
    )
    assert (model.attention_dropout, model.drop_path, model.dropout) == (0.1, 0.1, 0.0), name
    assert model.pool == ("tok" if name.startswith("ViT-Lite") else "seqpool"), name
    assert count(model) > 0
  published = {n: (models.find(n).image_size, models.find(n).num_classes) for n in models.names()}
  assert published["CCT-14/7x2"] == (224, 1000)
  assert published["CCT-7/7x2"] == (224, 102)
  assert published["CCT-7/3x1"] == published["CVT-6/8"] == (32, 10)


@pytest.mark.parametrize(
  ("name", "size", "tokens"),
  [
    ("CCT-2/7x1", 32, 8**2),
    ("CCT-7/7x1", 224, 56**2),
    ("CCT-2/3x3", 32, 4**2),
    ("CCT-4/5x1", 33, 17**2),  # stride 1, padding 2
    ("CCT-2/9x1", 60, 10**2),  # stride 3, padding 4
    ("CCT-2/1x1", 9, 6**2),  # stride 1, but padding 1: the border's convolutions see no pixel
    ("CVT-2/2", 32, 16**2),
    ("ViT-Lite-4/5", 40, 8**2 + 1),
  ],
)
def test_any_tokenizer_and_size(name, size, tokens):
  params = shapes(models.create(name, image_size=size, num_classes=2))
  assert params["pos_embedding"].shape[1] == tokens


@pytest.mark.parametrize("name", ["CCT-2/4x1", "CCT-2/3", "CCT-3/3x1", "CVT-7/3x1", "CVT-14/4"])
def test_other_names_are_unknown(name):
  with pytest.raises(UserError, match="unknown model"):
    models.find(name)


@pytest.mark.parametrize(
  ("name", "overrides", "message"),
  [
    ("CCT-2/3x1", dict(image_size=2), "conv_kernel=3 leave a single token; use at least 3 pixels"),
    ("CCT-2/3x3", dict(image_size=8), "image_size=8 is too small: conv_layers=3 with"),
    ("CCT-2/7x2", dict(image_size=8), "use at least 17 pixels or fewer layers"),
    ("CCT-2/3x1", dict(conv_kernel=4), "conv_kernel=4 has no middle pixel: use an odd one"),
    ("CVT-2/4", dict(image_size=30), "image_size=30 is not a multiple of patch_size=4: use 32"),
    ("CVT-2/4", dict(num_heads=3), "width=16 is not a multiple of num_heads=3"),
    ("CVT-2/4", dict(posemb="sincos2d"), 'model field posemb must be one of "learn", "sine"'),
    ("CVT-2/4", dict(conv_layers=0), "model field conv_layers must be at least 1, got 0"),
  ],
)
def test_wrong_overrides_are_one_clear_line(name, overrides, message):
  with pytest.raises(UserError) as e:
    tiny(name, **overrides)
  assert message in str(e.value)
  assert "\n" not in str(e.value)


def test_the_smallest_size_that_an_error_names_is_the_smallest():
  for kernel, layers in ((1, 1), (3, 1), (3, 4), (5, 2), (7, 2), (9, 1)):
    small = [n for n in range(1, 60) if conv_tokenizer.grid(n, kernel, layers) >= 2][0]
    with pytest.raises(UserError, match=f"at least {small} pixels"):
      conv_tokenizer.check_grid(small - 1, kernel, layers)
    conv_tokenizer.check_grid(small, kernel, layers)


@pytest.mark.parametrize("size", [1, 2, 3, 8, 9])
def test_max_pool_is_that_of_flax_with_its_gradient(size):
  x = np.float32(np.random.default_rng(0).normal(size=(2, size, size + 1, 3)))

  def reference(x):
    return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))

  np.testing.assert_array_equal(max_pool(x), reference(x))
  mine, theirs = (jax.grad(lambda x, f=f: (f(x) ** 2).sum())(x) for f in (max_pool, reference))
  np.testing.assert_allclose(mine, theirs, rtol=1e-6)
  assert max_pool(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("name", ["ViT-Lite-2/4", "CVT-2/4", "CCT-2/3x1"])
def test_sine_is_honoured_and_constant(name):
  model = tiny(name, posemb="sine")
  params, images = random_params(model), random_images(model)
  grads = jit(jax.grad(lambda p: model.apply({"params": p}, images).logits.sum()))(params)
  assert not grads["pos_embedding"].any()
  assert grads["encoder"]["block_0"]["mlp"]["up"]["kernel"].any()
  assert model.frozen == ("pos_embedding",)
  assert tiny(name).frozen == tiny(name, posemb="none").frozen == ()
  table = jit(model.init)(jax.random.key(1), images)["params"]["pos_embedding"]
  for position in (0, 1, 7):
    for entry in (0, 1, 6, 15):
      angle = position / 10_000 ** (2 * (entry // 2) / 16)
      expected = np.cos(angle) if entry % 2 else np.sin(angle)
      assert table[0, position, entry] == pytest.approx(expected, abs=1e-6)
  learned = apply(tiny(name), params, images).logits
  np.testing.assert_allclose(apply(model, params, images).logits, learned, atol=1e-6)


@pytest.mark.parametrize("pool", ["seqpool", "tok"])
def test_without_positions_the_order_of_the_tokens_is_lost(pool):
  model = tiny("CVT-2/4", posemb="none", pool=pool)
  params, images = random_params(model), random_images(model)
  turned = images.reshape(3, 3, 4, 12, 3)[:, ::-1].reshape(images.shape)  # rows of patches
  features = [apply(model, params, x).features for x in (images, turned)]
  np.testing.assert_allclose(*features, rtol=1e-4, atol=1e-5)
  model = tiny("CVT-2/4", pool=pool)
  params = random_params(model)
  features = [apply(model, params, x).features for x in (images, turned)]
  assert not np.allclose(*features, atol=1e-2)


def test_the_second_norm_is_on_the_residual_stream():
  model = tiny(depth=1)
  params, images = random_params(model), random_images(model)
  block = params["encoder"]["block_0"]
  block["mlp"]["down"] = jax.tree.map(np.zeros_like, block["mlp"]["down"])
  # What leaves the block is the output of norm2: its scale is seen though the MLP adds nothing.
  before = apply(model, params, images).logits
  block["norm2"]["bias"] = block["norm2"]["bias"] + np.arange(16, dtype=np.float32)
  assert np.abs(apply(model, params, images).logits - before).max() > 0.1


def test_sequence_pooling_weighs_tokens_and_shows_its_weights():
  model = tiny()
  params, images = random_params(model), random_images(model)
  _, state = model.apply({"params": params}, images, mutable=["intermediates"])
  (weights,) = state["intermediates"]["seq_pool"]["attention_weights"]
  assert weights.shape == (3, 36)
  np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
  assert weights.std() > 1e-3
  params["seq_pool"]["score"]["kernel"] *= 0
  _, state = model.apply({"params": params}, images, mutable=["intermediates"])
  np.testing.assert_allclose(*state["intermediates"]["seq_pool"]["attention_weights"], 1 / 36)
  (attention,) = state["intermediates"]["encoder"]["block_1"]["attention"]["attention_weights"]
  assert attention.shape == (3, 2, 36, 36)


@pytest.mark.parametrize("scan", [False, True])
def test_initialisation_is_that_of_the_official_code(scan):
  model = models.create("CCT-7/3x2", num_classes=100, image_size=32, depth=2, scan=scan)
  params = jit(model.init)(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))["params"]
  block = params["encoder"]["blocks" if scan else "block_0"]
  convs = params["tokenizer"]
  for kernel, std in (
    (convs["conv_0"]["kernel"], (2 / 27) ** 0.5),
    (convs["conv_1"]["kernel"], (2 / 576) ** 0.5),
    (params["pos_embedding"], 0.2),
    (block["attention"]["query"]["kernel"], 0.02),
    (block["attention"]["out"]["kernel"], 0.02),
    (block["mlp"]["up"]["kernel"], 0.02),
    (params["head"]["kernel"], 0.02),
  ):
    assert kernel.std() == pytest.approx(std, rel=0.04)
    assert abs(kernel.mean()) < 5 * std / kernel.size**0.5
  assert params["seq_pool"]["score"]["kernel"].std() == pytest.approx(0.02, rel=0.2)
  for path, x in jax.tree_util.tree_leaves_with_path(params):
    if path[-1].key == "bias":
      assert not x.any(), path
    if path[-1].key == "scale":
      assert (x == 1).all(), path
  assert "bias" not in block["attention"]["query"]
  assert set(convs["conv_0"]) == {"kernel"}


def test_initialisation_of_patches_and_the_class_token():
  model = models.create("ViT-Lite-6/4", num_classes=10, image_size=32, depth=1)
  params = jit(model.init)(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))["params"]
  assert not params["cls"].any()
  assert params["embedding"]["kernel"].std() == pytest.approx((2 / 48) ** 0.5, rel=0.04)
  bias = params["embedding"]["bias"]
  assert np.abs(bias).max() <= 48**-0.5
  assert bias.std() == pytest.approx((48 * 3) ** -0.5, rel=0.1)


@pytest.mark.parametrize(("argument", "name"), [("", "CCT-2/3x2"), (":7/3x1", "CCT-7/3x1")])
def test_the_config_takes_the_tokenizer(argument, name):
  file = Path(__file__).parents[2] / "configs" / "cct_cifar10.py"
  (config,) = cli.load_rungs(f"{file}{argument}", []).values()
  assert config.model.name == name
