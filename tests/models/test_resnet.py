"""ResNets and BiT: counts, FLOPs, statistics, and what they start from."""

import jax
import numpy as np
import pytest
from modeling import jit, shapes
from shrunken import create

from vit_jax import flops, models
from vit_jax.errors import UserError
from vit_jax.models import bit, resnet
from vit_jax.models.max_pool import max_pool

# Parameters and 10^9 multiply-adds at 224 px with 1000 classes: those of timm 1.0.31; those of
# ResNets with all widths doubled follow from `counted` below.
FIGURES = {
  "ResNet-50": (25_557_032, 4.0892),
  "ResNet-101": (44_549_160, 7.8014),
  "ResNet-152": (60_192_808, 11.5136),
  "BiT-R50x1": (25_549_352, 4.0892),
  "BiT-R50x3": (217_319_080, 36.0823),
  "BiT-R101x1": (44_541_480, 7.8014),
  "BiT-R101x3": (387_934_888, 69.4923),
  "BiT-R152x2": (236_335_208, 45.8144),
  "BiT-R152x4": (936_533_224, 182.7773),
}
# Millions in 2106.01548, Table 2.
WIDE = {"ResNet-50x2": 98, "ResNet-101x2": 173, "ResNet-152x2": 236}


def published(name, **overrides):
  return models.create(name, num_classes=1000, image_size=224, **{"scan": True, **overrides})


def count(model):
  return sum(x.size for x in jax.tree.leaves(shapes(model)))


def counted(width, depths):
  """Parameters and multiply-adds of a ResNet at 224 px, from Table 1 of the paper."""
  parameters, operations = 49 * 3 * width + 2 * width, 112**2 * 49 * 3 * width
  inputs, side = width, 56
  for i, depth in enumerate(depths):
    mid, outputs = width * 2**i, 4 * width * 2**i
    for j in range(depth):
      before, side = side, 56 // 2**i  # the first block still reads the stage before
      parameters += inputs * mid + 9 * mid * mid + mid * outputs + 4 * mid + 2 * outputs
      operations += before**2 * inputs * mid + side**2 * (9 * mid * mid + mid * outputs)
      if j == 0:
        parameters += inputs * outputs + 2 * outputs
        operations += side**2 * inputs * outputs
      inputs = outputs
  return parameters + 1000 * (inputs + 1), operations + 1000 * inputs


@pytest.mark.parametrize("name", FIGURES)
def test_parameters_and_flops(name):
  model = published(name)
  parameters, multiply_adds = FIGURES[name]
  assert count(model) == parameters
  np.testing.assert_allclose(flops.model_flops(model, 224) / 2e9, multiply_adds, rtol=1e-4)


@pytest.mark.parametrize("name", ["ResNet-50", *WIDE])
def test_wide_networks_double_every_width(name):
  model = published(name)
  parameters, multiply_adds = counted(model.width, model.depths)
  assert count(model) == parameters
  assert flops.model_flops(model, 224) == 2 * multiply_adds
  if name in WIDE:
    assert parameters / 1e6 == pytest.approx(WIDE[name], abs=1)


def test_scan_has_as_many_parameters():
  assert count(published("ResNet-50", scan=False)) == 25_557_032
  assert count(published("BiT-R50x1", scan=False)) == 25_549_352


def test_names():
  assert {*resnet.FAMILY.names, *bit.FAMILY.names} == {*FIGURES, *WIDE}
  assert models.find("ResNet-50x3").fields["width"] == 192  # any factor
  assert models.find("BiT-R101x2").fields["width"] == 128
  for name in ("ResNet-34", "BiT-R50", "BiT-50x1"):
    with pytest.raises(UserError, match="did you mean"):
      models.find(name)
  with pytest.raises(UserError, match="width=48 does not divide into the 32 groups"):
    models.create("BiT-R50x1", num_classes=2, image_size=32, width=48)
  with pytest.raises(UserError, match="depths must be a list of integers"):
    models.create("ResNet-50", num_classes=2, image_size=32, depths=3)


@pytest.mark.parametrize("name", ["ResNet-50", "BiT-R50x1"])
@pytest.mark.parametrize(("stem", "last"), [("imagenet", 1), ("cifar", 4)])
def test_the_small_stem_keeps_the_pixels(name, stem, last):
  model = models.create(name, num_classes=2, image_size=32, stem=stem, width=32, depths=(1,) * 4)
  images = np.zeros((2, 32, 32, 3), np.float32)
  _, state = jax.eval_shape(
    lambda key: model.init_with_output(
      key, images, mutable=["params", "intermediates", "batch_stats"]
    ),
    jax.random.key(0),
  )
  (activations,) = state["intermediates"]["stage_3"]["first"]["activations"]
  sides = (last, 1024) if name == "ResNet-50" else (2 * last, 512)  # BiT: before the block
  assert activations.shape == (2, sides[0], sides[0], sides[1])


def initialized(name, **overrides):
  model = create(name, **overrides)
  images = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype(np.float32)
  return model, jit(lambda key: model.init(key, images))(jax.random.key(0)), images


def run(model, variables, images, **kwargs):
  return jit(lambda v, x: model.apply(v, x, **kwargs))(variables, images)


@pytest.mark.parametrize("scan", [False, True])
def test_blocks_of_a_resnet_start_as_their_shortcuts(scan):
  model, variables, images = initialized("ResNet-50", width=16, scan=scan)
  params = variables["params"]
  rest = params["stage_0"]["rest"]["blocks" if scan else "block_0"]
  for block in (params["stage_0"]["first"], rest):
    assert not block["norm3"]["scale"].any()
    assert (block["norm1"]["scale"] == 1).all()
    for name, fan_out in (("conv1", 16), ("conv2", 9 * 16), ("conv3", 64)):
      kernel = np.float64(block[name]["kernel"])
      assert kernel.std() == pytest.approx((2 / fan_out) ** 0.5, rel=0.15)
  assert params["head"]["kernel"].std() == pytest.approx(0.01, rel=0.1)
  if not scan:
    _, state = run(model, variables, images, mutable=["intermediates"])
    stage = state["intermediates"]["stage_0"]
    first = stage["first"]["activations"][0]
    second = stage["rest"]["block_0"]["activations"][0]
    np.testing.assert_array_equal(first, second)


def test_the_scale_of_bits_kernels_does_not_matter():
  model, variables, images = initialized("BiT-R50x1", head_zeroinit=False)
  scaled = jax.tree_util.tree_map_with_path(
    lambda path, x: 3 * x + 0.5 if "conv" in path[-2].key else x, variables["params"]
  )
  outs = [run(model, {"params": p}, images).logits for p in (variables["params"], scaled)]
  np.testing.assert_allclose(*outs, rtol=1e-3, atol=1e-5)


def test_statistics_are_those_of_the_batch_and_move_by_a_tenth():
  model, variables, images = initialized("ResNet-50")
  images = images + 2
  _, changed = run(model, variables, images, train=True, mutable=["batch_stats"])
  kernel = variables["params"]["stem_conv"]["kernel"]
  pixels = np.stack(
    [
      np.einsum(
        "bhwi,hwio->bo",
        np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))[:, y : y + 3, x : x + 3],
        kernel,
      )
      for y in range(8)
      for x in range(8)
    ]
  ).reshape(-1, model.width)
  new = changed["batch_stats"]["stem_norm"]
  np.testing.assert_allclose(new["mean"], 0.1 * pixels.mean(0), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(new["var"], 0.9 + 0.1 * pixels.var(0), rtol=1e-4)


def test_evaluation_leaves_the_statistics_alone():
  model, variables, images = initialized("ResNet-50")
  _, changed = run(model, variables, images, mutable=["batch_stats"])
  jax.tree.map(np.testing.assert_array_equal, changed["batch_stats"], variables["batch_stats"])


@pytest.mark.parametrize("padding", [-np.inf, 0.0])
@pytest.mark.parametrize("size", [4, 5])
def test_pooling_takes_the_padding_for_pixels(padding, size):
  x = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32) - 1
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=padding)
  n = (size + 1) // 2
  expected = np.stack(
    [
      [padded[:, 2 * a : 2 * a + 3, 2 * b : 2 * b + 3].max((1, 2)) for b in range(n)]
      for a in range(n)
    ]
  ).transpose(2, 0, 1, 3)
  np.testing.assert_array_equal(max_pool(x, padding), expected)
