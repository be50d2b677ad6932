"""timm's and Google's files of BiT."""

import re
from functools import partial

import numpy as np
import numpy_resnet
import parity
import pytest

from vit_jax import models
from vit_jax.pretrained.bit import FORMATS

TIMM, GOOGLE = FORMATS
SIZES = dict(width=32, depths=(2, 2))


def create(**overrides):
  return models.create("BiT-R50x1", **{**SIZES, "num_classes": 64, "image_size": 20, **overrides})


@pytest.fixture(scope="module")
def state():
  return numpy_resnet.random_state(numpy_resnet.bit_shapes(**SIZES, classes=64))


@pytest.fixture(scope="module")
def output(state):
  model = create()
  return parity.outputs_of(model, TIMM.rules(model), state, parity.images_for(model))


def compare(a, b):
  return np.abs(a - b).max() / b.std()


def test_logits_equal_numpy(state, output):
  logits, features = numpy_resnet.bit(state, parity.images_for(create()))
  assert 0.3 < logits.std() < 3
  assert compare(output.logits, logits) < 1e-5
  assert compare(output.features, features) < 1e-5


@pytest.mark.parametrize(
  "mistake",
  ["plain kernels", "unbiased variance", "pool without zeros", "shortcut before the norm"],
)
def test_wrong_readings_are_seen(state, output, mistake):
  logits, _ = numpy_resnet.bit(state, parity.images_for(create()), mistake)
  assert compare(output.logits, logits) > 1e-3


def test_round_trip_is_exact(state):
  parity.assert_round_trip(create(), TIMM.rules(create()), state)


def google(state):
  """The tensors as the published .npz files name them and lay them out."""
  out = {}
  for name, x in state.items():
    x = x.transpose(2, 3, 1, 0) if x.ndim == 4 else x
    name = re.sub(r"head\.fc\.weight", "head/conv2d/kernel", name)
    name = re.sub(r"head\.fc\.bias", "head/conv2d/bias", name)
    name = re.sub(r"stem\.conv\.weight", "root_block/standardized_conv2d/kernel", name)
    block = re.match(r"stages\.(\d)\.blocks\.(\d+)\.", name)
    if block:
      inside = name[block.end() :]
      inside = re.sub(r"downsample\.conv\.weight", "a/proj/standardized_conv2d/kernel", inside)
      for k, part in enumerate("abc", 1):
        inside = inside.replace(f"conv{k}.weight", f"{part}/standardized_conv2d/kernel")
        inside = inside.replace(f"norm{k}.weight", f"{part}/group_norm/gamma")
        inside = inside.replace(f"norm{k}.bias", f"{part}/group_norm/beta")
      name = f"block{int(block[1]) + 1}/unit{int(block[2]) + 1:02d}/{inside}"
    name = {"norm.weight": "group_norm/gamma", "norm.bias": "group_norm/beta"}.get(name, name)
    out[f"resnet/{name}"] = x
  return out


def numbered(state):
  """Some of the published files count their convolutions."""
  return {
    name.replace("/a/standardized_conv2d/", "/a/standardized_conv2d_3/"): x
    for name, x in google(state).items()
  }


def big_vision(state):
  """As big_vision writes them."""
  out = {}
  for name, x in google(state).items():
    name = name.removeprefix("resnet/")
    name = name.replace("root_block/standardized_conv2d", "root_block/conv_root")
    name = name.replace("a/proj/standardized_conv2d", "conv_proj")
    for k, part in enumerate("abc", 1):
      name = name.replace(f"/{part}/standardized_conv2d/", f"/conv{k}/")
      name = name.replace(f"/{part}/group_norm/", f"/gn{k}/")
    name = re.sub("^group_norm", "norm-pre-head", name)
    if name.endswith(("gamma", "beta")):
      name, x = name.replace("gamma", "scale").replace("beta", "bias"), x[None, None, None]
    if name == "head/conv2d/kernel":
      x = x[0, 0]
    out[name.replace("head/conv2d", "head")] = x
  return out


@pytest.mark.parametrize("layout", [google, numbered, big_vision])
def test_google_files_hold_the_same(state, layout):
  model = create()
  tensors = GOOGLE.rename(layout(state))
  parity.assert_round_trip(model, GOOGLE.rules(model), tensors)
  mine = parity.imported(model, GOOGLE.rules(model), tensors)
  np.testing.assert_equal(mine, parity.imported(model, TIMM.rules(model), state))


def test_published_files_have_these_names_and_shapes():
  model = models.create("BiT-R101x3", num_classes=1000, image_size=224)
  names = numpy_resnet.bit_shapes(width=192, depths=(3, 4, 23, 3), classes=1000)
  assert {n for rule in TIMM.rules(model) for n in rule.theirs} == set(names)
  assert sum(np.prod(shape) for shape in names.values()) == 387_934_888


def _assert_equal_timm(module, model):
  state, images = parity.perturb(module), parity.images_for(model)
  # timm's own float32 is up to 7e-5 away from its float64, ours 1e-5 (50 layers, 224 px).
  expected = parity.torch_logits(module.double(), np.float64(images))
  got = parity.outputs_of(model, TIMM.rules(model), state, images).logits
  assert compare(got, expected) < 3e-5


@pytest.mark.torch
def test_logits_equal_timm():
  timm = pytest.importorskip("timm")
  resnetv2 = timm.models.resnetv2
  module = resnetv2.ResNetV2(
    [2, 1, 2, 1],
    num_classes=64,
    stem_type="fixed",
    conv_layer=partial(resnetv2.StdConv2d, eps=1e-8),
  )
  _assert_equal_timm(module, create(width=64, depths=(2, 1, 2, 1), image_size=48))


@pytest.mark.torch
@pytest.mark.slow
def test_full_size_logits_equal_timm():
  timm = pytest.importorskip("timm")
  model = models.create("BiT-R50x1", num_classes=1000, image_size=224)
  _assert_equal_timm(timm.create_model("resnetv2_50x1_bit"), model)
