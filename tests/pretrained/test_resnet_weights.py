"""torchvision's files of ResNets, which are timm's as well."""

import numpy as np
import numpy_resnet
import parity
import pytest

from vit_jax import models
from vit_jax.pretrained.resnet import FORMATS

(TORCHVISION,) = FORMATS
# An even size, where XLA's padding differs from PyTorch's in the stem and in the second stage.
SIZES = dict(width=8, depths=(2, 2))


def create(**overrides):
  return models.create("ResNet-50", **{**SIZES, "num_classes": 64, "image_size": 32, **overrides})


@pytest.fixture(scope="module")
def state():
  return numpy_resnet.random_state(numpy_resnet.resnet_shapes(**SIZES, classes=64))


@pytest.fixture(scope="module")
def output(state):
  model = create()
  return parity.outputs_of(model, TORCHVISION.rules(model), state, parity.images_for(model))


def compare(a, b):
  return np.abs(a - b).max() / b.std()


def test_logits_equal_numpy(state, output):
  logits, features = numpy_resnet.resnet(state, parity.images_for(create()))
  assert 0.3 < logits.std() < 3
  assert compare(output.logits, logits) < 1e-5
  assert compare(output.features, features) < 1e-5


@pytest.mark.parametrize("size", [17, 20])
def test_odd_sizes_and_the_small_stem_equal_numpy(size):
  model = create(stem="cifar", image_size=size)
  state = numpy_resnet.random_state(numpy_resnet.resnet_shapes(**SIZES, classes=64, stem=3))
  images = parity.images_for(model)
  got = parity.outputs_of(model, TORCHVISION.rules(model), state, images).logits
  assert compare(got, numpy_resnet.resnet(state, images)[0]) < 1e-5


@pytest.mark.parametrize("mistake", ["stride in conv1", "XLA's padding", "epsilon"])
def test_wrong_readings_are_seen(state, output, mistake):
  logits, _ = numpy_resnet.resnet(state, parity.images_for(create()), mistake)
  assert compare(output.logits, logits) > 1e-3


def test_round_trip_is_exact(state):
  parity.assert_round_trip(create(), TORCHVISION.rules(create()), state)


def test_counters_of_batches_are_left_out(state):
  more = {**state, "bn1.num_batches_tracked": np.int64(7)}
  assert TORCHVISION.rename(more).keys() == state.keys()


@pytest.mark.parametrize(("name", "expected"), [("ResNet-50", 25_557_032), ("ResNet-152", None)])
def test_published_files_have_these_names_and_shapes(name, expected):
  model = models.create(name, num_classes=1000, image_size=224)
  names = numpy_resnet.resnet_shapes(width=64, depths=model.depths, classes=1000)
  rules = TORCHVISION.rules(model)
  assert {n for rule in rules for n in rule.theirs} == set(names)
  trained = sum(np.prod(s) for n, s in names.items() if "running" not in n)
  assert trained == (expected or 60_192_808)


def _assert_equal_timm(module, model):
  images = parity.images_for(model)
  state = TORCHVISION.rename(parity.perturb(module))
  expected = parity.torch_logits(module, images)
  got = parity.outputs_of(model, TORCHVISION.rules(model), state, images).logits
  assert compare(got, expected) < 5e-5


@pytest.mark.torch
def test_logits_equal_timm():
  timm = pytest.importorskip("timm")
  resnet = timm.models.resnet
  module = resnet.ResNet(resnet.Bottleneck, (2, 1, 2, 1), num_classes=64)
  _assert_equal_timm(module, create(width=64, depths=(2, 1, 2, 1), image_size=48))


@pytest.mark.torch
@pytest.mark.slow
def test_full_size_logits_equal_timm():
  timm = pytest.importorskip("timm")
  model = models.create("ResNet-50", num_classes=1000, image_size=224)
  _assert_equal_timm(timm.create_model("resnet50"), model)
