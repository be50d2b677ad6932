"""Swin: counts, windows, and who may look at whom."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from modeling import jit, random_images, random_params, shapes
from shrunken import create

from vit_jax import flops, models
from vit_jax.errors import UserError
from vit_jax.models import swin, swin_blocks, windows

# Parameters and 10^9 multiply-adds with 1000 classes, at 224 px and, with windows of 12, 384 px.
FIGURES = {
  "Swin-T": (28_288_354, 4.4906),
  "Swin-S": (49_606_258, 8.7409),
  "Swin-B": (87_768_224, 15.4309),
  "Swin-L": (196_532_476, 34.4758),
  # Parameters are timm's; multiply-adds are the paper's Table 1, in which B has 47.0, L 103.9.
  "Swin-B-w12": (87_903_584, 47.0831),
  "Swin-L-w12": (196_735_516, 103.9191),
}


def published(name, **overrides):
  variant = models.find(name)
  return models.create(
    name, num_classes=variant.num_classes, image_size=variant.image_size, scan=True, **overrides
  )


def count(model):
  return sum(x.size for x in jax.tree.leaves(shapes(model)))


@pytest.mark.parametrize("name", swin.FAMILY.names)
def test_parameters_and_flops(name):
  model = published(name)
  parameters, multiply_adds = FIGURES[name]
  assert count(model) == parameters
  counted = flops.model_flops(model, model.image_size) / 2e9
  np.testing.assert_allclose(counted, multiply_adds, rtol=1e-4)


def test_scan_has_as_many_parameters():
  assert count(models.create("Swin-T", num_classes=1000, image_size=224)) == 28_288_354


@pytest.mark.parametrize(
  ("name", "rate"), [("Swin-T", 0.2), ("Swin-S", 0.3), ("Swin-B", 0.5), ("Swin-B-w12", 0.5)]
)
def test_variants_carry_the_drop_path_of_their_training(name, rate):
  assert published(name).drop_path == rate
  assert published(name, drop_path=0.0).drop_path == 0


def test_any_window_is_a_name():
  variant = models.find("Swin-T-w8")
  assert (variant.fields["window"], variant.image_size) == (8, 256)
  with pytest.raises(UserError, match="did you mean Swin-T"):
    models.create("Swin-Ti", num_classes=2, image_size=224)


@pytest.mark.parametrize(
  ("image_size", "patch_size", "window", "sides", "shrunk"),
  [
    (224, 4, 7, (56, 28, 14, 7), (7, 7, 7, 7)),
    (256, 4, 7, (64, 32, 16, 8), (7, 7, 7, 7)),
    (384, 4, 7, (96, 48, 24, 12), (7, 7, 7, 7)),
    (384, 4, 12, (96, 48, 24, 12), (12, 12, 12, 12)),
    (100, 4, 7, (25, 13, 7, 4), (7, 7, 7, 4)),
    (32, 4, 7, (8, 4, 2, 1), (7, 4, 2, 1)),
    (32, 2, 7, (16, 8, 4, 2), (7, 7, 4, 2)),
    (33, 2, 7, (17, 9, 5, 3), (7, 7, 5, 3)),
    (1, 4, 7, (1, 1, 1, 1), (1, 1, 1, 1)),
  ],
)
def test_any_image_size(image_size, patch_size, window, sides, shrunk):
  model = models.create(
    "Swin-T",
    num_classes=5,
    image_size=image_size,
    patch_size=patch_size,
    window=window,
    scan=True,
  )
  assert model.sides() == sides
  params = shapes(model)
  for i, w in enumerate(shrunk):
    table = params[f"stage_{i}"]["blocks"]["bias_table"]
    assert table.shape == (model.depths[i], (2 * w - 1) ** 2, 3 * 2**i)
  images = jax.ShapeDtypeStruct((2, image_size, image_size, 3), jnp.float32)
  out = jax.eval_shape(lambda p, x: model.apply({"params": p}, x), params, images)
  assert out.logits.shape == (2, 5)
  assert out.features.shape == (2, 768)


def test_images_are_padded_at_the_right_and_the_bottom():
  small, large = (create("Swin-T", patch_size=4, image_size=size) for size in (22, 24))
  params, images = random_params(small), random_images(small)
  padded = np.pad(images, ((0, 0), (0, 2), (0, 2), (0, 0)))
  a, b = (jit(m.apply)({"params": params}, x).logits for m, x in ((small, images), (large, padded)))
  np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("side", "window"), [(8, 4), (7, 3), (5, 5), (9, 8)])
def test_windows_are_squares_of_the_map(side, window):
  x = np.arange(2 * side * side * 3).reshape(2, side, side, 3) + 1
  cut = windows.partition(x, window)
  n = windows.padded(side, window) // window
  assert cut.shape == (2 * n * n, window * window, 3)
  for i, (b, row, col) in enumerate(itertools.product(range(2), range(n), range(n))):
    part = x[b, row * window : (row + 1) * window, col * window : (col + 1) * window]
    square = np.zeros((window, window, 3), int)
    square[: part.shape[0], : part.shape[1]] = part
    np.testing.assert_array_equal(cut[i], square.reshape(-1, 3))
  np.testing.assert_array_equal(windows.merge(cut, side, window), x)


@pytest.mark.parametrize("window", [1, 2, 5])
def test_relative_positions_are_query_minus_key(window):
  index = windows.relative_positions(window)
  places = list(itertools.product(range(window), range(window)))
  grid = np.arange((2 * window - 1) ** 2).reshape(2 * window - 1, 2 * window - 1)
  for (i, (y, x)), (j, (v, u)) in itertools.product(enumerate(places), enumerate(places)):
    assert index[i, j] == grid[y - v + window - 1, x - u + window - 1]


def sees(side, window, shifted):
  """[side^2, side^2] bool: whether a token's output depends on another token."""
  block = swin_blocks.SwinBlock(side=side, window=window, num_heads=2, mlp_dim=4)
  x = np.float32(np.random.default_rng(0).normal(size=(1, side * side, 4)))
  each = (np.float32(0), np.bool_(shifted))
  variables = jit(block.init)(jax.random.key(0), x, each)

  def total(x):
    return block.apply(variables, x, each)[0].sum((0, 2))

  return np.abs(jit(jax.jacobian(total))(x)[:, 0]).sum(-1) > 1e-12


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("side", "window", "bands"), [(8, 4, (2, 6)), (6, 2, (1, 3, 5))])
def test_tokens_see_their_window_and_nothing_across_the_border(side, window, bands, shifted):
  group = np.digitize(np.arange(side), bands if shifted else range(window, side, window))
  group = [(y, x) for y in group for x in group]
  expected = [[a == b for b in group] for a in group]
  np.testing.assert_array_equal(sees(side, window, shifted), expected)


def test_a_map_of_one_window_is_not_shifted():
  assert sees(4, 4, shifted=True).all()


def test_padding_is_a_key_like_others():
  """Side 3 in windows of 2: the last token sees three tokens of zeros, which are not masked."""
  block = swin_blocks.SwinBlock(side=3, window=2, num_heads=1, mlp_dim=4)
  x = np.float32(np.random.default_rng(0).normal(size=(1, 9, 4)))
  each = (np.float32(0), np.bool_(False))
  params = jit(block.init)(jax.random.key(0), x, each)["params"]
  params = jax.tree.map(lambda p: p + 0.1, params)
  _, state = jit(lambda p: block.apply(p, x, each, mutable=["intermediates"]))({"params": params})
  (weights,) = state["intermediates"]["attention"]["attention_weights"]
  assert weights.shape == (4, 1, 4, 4)
  np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
  assert (weights[-1] > 0.05).all()


@pytest.mark.parametrize("scan", [False, True])
def test_attention_weights_are_those_of_windows(scan):
  model = create("Swin-T", scan=scan)  # maps of 5 and 3, windows of 3
  _, state = jit(lambda p: model.apply(p, random_images(model), mutable=["intermediates"]))(
    {"params": random_params(model)}
  )
  leaves = jax.tree_util.tree_leaves_with_path(state["intermediates"])
  got = {
    "/".join(str(k.key) for k in path[:2]): x.shape
    for path, x in leaves
    if path[-2].key == "attention_weights"
  }
  first, second = (3 * 4, 2, 9, 9), (3, 4, 9, 9)
  if scan:
    assert got == {"stage_0/blocks": (2, *first), "stage_1/blocks": (2, *second)}
  else:
    assert got == {f"stage_{i}/block_{j}": (first, second)[i] for i in (0, 1) for j in (0, 1)}


def test_drop_path_rises_over_all_blocks_and_every_second_one_is_shifted():
  model = models.create("Swin-T", num_classes=2, image_size=32, width=8, head_dim=8, drop_path=0.22)
  seen = []

  def look(call, args, kwargs, context):
    if isinstance(context.module, swin_blocks.SwinBlock) and context.method_name == "__call__":
      seen.append((float(args[1][0]), bool(args[1][1])))
    return call(*args, **kwargs)

  with nn.intercept_methods(look):
    jax.eval_shape(model.init, jax.random.key(0), random_images(model))
  rates, shifted = zip(*seen, strict=True)
  np.testing.assert_allclose(rates, 0.02 * np.arange(12), rtol=1e-6)
  assert shifted == (False, True) * 6


def test_initialisation():
  model = models.create(
    "Swin-T", num_classes=100, image_size=28, width=64, head_dim=16, depths=(1, 1)
  )
  params = jit(model.init)(jax.random.key(0), np.zeros((1, 28, 28, 3)))["params"]
  bound = 48**-0.5
  for x in params["embedding"].values():
    assert 0.9 * bound < np.abs(x).max() < bound
    np.testing.assert_allclose(x.std(), bound / 3**0.5, rtol=0.2)
  for path, x in jax.tree_util.tree_leaves_with_path(
    {k: v for k, v in params.items() if k != "embedding"}
  ):
    if path[-1].key == "scale":
      assert (x == 1).all(), path
    elif path[-1].key == "bias":
      assert (x == 0).all(), path
    else:  # kernels and tables
      np.testing.assert_allclose(x.std(), 0.02, rtol=0.15, err_msg=str(path))
  model = model.clone(head_zeroinit=True, head_bias_init=-3.0)
  head = jit(model.init)(jax.random.key(0), np.zeros((1, 28, 28, 3)))["params"]["head"]
  assert (head["kernel"] == 0).all()
  assert (head["bias"] == -3).all()


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    (dict(width=100), "width=100 is not a multiple of head_dim=32"),
    (dict(window=0), "model field window must be at least 1, got 0"),
    (dict(depths=6), "model field depths must be a list of integers, got 6"),
    (dict(depths=(2, 0)), "model field depths must be at least 1, got 0"),
    (dict(num_heads=3), "unknown field of Swin 'num_heads'"),
  ],
)
def test_wrong_overrides_are_one_clear_line(overrides, message):
  with pytest.raises(UserError) as e:
    models.create("Swin-T", num_classes=2, image_size=32, **overrides)
  assert message in str(e.value)
