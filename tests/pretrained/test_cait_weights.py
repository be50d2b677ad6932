"""timm's and Facebook's files of CaiT."""

import jax
import numpy as np
import numpy_cait
import parity
import pytest

from vit_jax import models, pretrained
from vit_jax.pretrained.cait import FORMATS

SIZES = dict(width=24, depth=3, class_depth=2, mlp_dim=40)
HEADS = 3
(TIMM,) = FORMATS


def create(**overrides):
  fields = dict(**SIZES, num_heads=HEADS, patch_size=4, num_classes=64, image_size=12)
  return models.create("CaiT-XXS24", **{**fields, **overrides})


@pytest.fixture(scope="module")
def state():
  return numpy_cait.random_state(**SIZES, heads=HEADS, patch=4, tokens=9, classes=64)


@pytest.fixture(scope="module")
def output(state):
  model = create()
  return parity.outputs_of(model, TIMM.rules(model), state, parity.images_for(model))


def test_logits_equal_numpy(state, output):
  logits, features = numpy_cait.forward(state, parity.images_for(create()), HEADS)
  assert 0.5 < logits.std() < 2
  np.testing.assert_allclose(output.logits, logits, rtol=0, atol=1e-5)
  np.testing.assert_allclose(output.features, features, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mistake", ["talks exchanged", "class token not normed", "no LayerScale"])
def test_wrong_readings_are_seen(state, output, mistake):
  logits, _ = numpy_cait.forward(state, parity.images_for(create()), HEADS, mistake)
  assert np.abs(output.logits - logits).max() > 0.1


def test_keys_before_queries_are_seen(state, output):
  wrong = dict(state)
  for name in state:
    if ".qkv." in name:
      q, k, v = np.split(state[name], 3)
      wrong[name] = np.concatenate([k, q, v])
  model = create()
  got = parity.outputs_of(model, TIMM.rules(model), wrong, parity.images_for(model))
  assert np.abs(output.logits - got.logits).max() > 0.1


def test_round_trip_is_exact(state):
  parity.assert_round_trip(create(), TIMM.rules(create()), state)


def test_published_files_have_these_names_and_shapes():
  model = models.create("CaiT-S24", num_classes=1000, image_size=224)
  sizes = {name: getattr(model, name) for name in SIZES}
  names = numpy_cait.shapes(**sizes, heads=8, patch=16, tokens=196, classes=1000)
  assert sum(np.prod(shape) for shape in names.values()) == 46_916_200
  assert {n for rule in TIMM.rules(model) for n in rule.theirs} == set(names)


def test_positions_are_resized_without_a_class_token():
  (rule,) = (r for r in TIMM.rules(create()) if r.theirs == ("pos_embed",))
  table = np.float32(np.random.default_rng(0).normal(size=(1, 9, 24)))
  # With the corners kept, every second row and column of a grid twice as fine is the old one.
  fine = rule.resize(table, (1, 25, 24), "zoom").reshape(5, 5, 24)
  np.testing.assert_allclose(fine[::2, ::2], table.reshape(3, 3, 24), rtol=0, atol=1e-6)


@pytest.mark.torch
def test_files_of_the_deit_project_are_read(state, output, tmp_path):
  torch = pytest.importorskip("torch")
  path = tmp_path / "XXS24_224.pth"
  tensors = {f"module.{name}": torch.tensor(x) for name, x in state.items()}
  torch.save({"model": tensors, "epoch": 399}, path)
  model = create(scan=True)
  variables = pretrained.load(path, model)
  got = jax.jit(model.apply)(variables, parity.images_for(model))
  np.testing.assert_allclose(got.logits, output.logits, rtol=1e-5, atol=1e-5)


def _assert_equal_timm(module, model):
  state, images = parity.perturb(module), parity.images_for(model)
  expected = parity.torch_logits(module, images)
  got = parity.outputs_of(model, TIMM.rules(model), state, images).logits
  np.testing.assert_allclose(got / expected.std(), expected / expected.std(), rtol=0, atol=5e-5)
  parity.assert_round_trip(model, TIMM.rules(model), state)


@pytest.mark.torch
def test_logits_equal_timm():
  timm = pytest.importorskip("timm")
  module = timm.models.cait.Cait(
    img_size=12,
    patch_size=4,
    num_classes=64,
    embed_dim=24,
    depth=3,
    num_heads=HEADS,
    mlp_ratio=2,
    mlp_ratio_token_only=2,
    init_values=1e-5,
  )
  _assert_equal_timm(module, create(mlp_dim=48))


@pytest.mark.torch
@pytest.mark.slow
def test_logits_of_full_size_equal_timm():
  timm = pytest.importorskip("timm")
  model = models.create("CaiT-XXS24", num_classes=1000, image_size=224)
  _assert_equal_timm(timm.create_model("cait_xxs24_224"), model)
