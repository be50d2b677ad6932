"""MLP-Mixer: counts, FLOPs, and what it knows of positions."""

import jax
import numpy as np
import pytest
from modeling import apply, jit, random_images, random_params, shapes
from shrunken import create

from vit_jax import flops, models
from vit_jax.errors import UserError
from vit_jax.models import mixer

# Parameters and 10^9 multiply-adds at 224 px with 1000 classes.
FIGURES = {
  "Mixer-S/32": (19_104_624, 1.0024),
  "Mixer-S/16": (18_528_264, 3.7770),
  "Mixer-B/32": (60_293_428, 3.2377),
  "Mixer-B/16": (59_880_472, 12.6018),
  "Mixer-L/32": (206_939_264, 11.2533),
  "Mixer-L/16": (208_196_168, 44.5477),
}


def published(name, **overrides):
  return models.create(name, num_classes=1000, image_size=224, **{"scan": True, **overrides})


def count(model):
  return sum(x.size for x in jax.tree.leaves(shapes(model)))


@pytest.mark.parametrize("name", FIGURES)
def test_parameters_and_flops(name):
  model = published(name)
  parameters, multiply_adds = FIGURES[name]
  assert count(model) == parameters
  np.testing.assert_allclose(flops.model_flops(model, 224) / 2e9, multiply_adds, rtol=1e-3)


def test_the_largest_has_the_size_in_the_paper():
  n, d, blocks = 16 * 16, 1280, 32
  linear = lambda inputs, outputs: inputs * outputs + outputs  # noqa: E731
  block = 4 * d + linear(n, 640) + linear(640, n) + linear(d, 5120) + linear(5120, d)
  total = linear(14 * 14 * 3, d) + blocks * block + 2 * d + linear(d, 1000)
  assert count(published("Mixer-H/14")) == total
  assert (total - linear(d, 1000)) / 1e6 == pytest.approx(431, abs=1)  # Table 1


def test_names():
  assert set(mixer.FAMILY.names) == {*FIGURES, "Mixer-H/14"}
  without_head = count(published("Mixer-S/8")) - 513_000
  assert without_head / 1e6 == pytest.approx(20, abs=0.5)  # 2106.01548, Table 2
  assert mixer.FAMILY.lookup("Mixer-S/0") is None
  with pytest.raises(UserError, match="did you mean Mixer-S/16"):
    models.find("mixer-s/16")
  with pytest.raises(UserError, match="image_size=33 is not a multiple of patch_size=16: use 32"):
    models.create("Mixer-S/16", num_classes=2, image_size=33)


def test_scan_has_as_many_parameters():
  assert count(published("Mixer-S/32", scan=False)) == 19_104_624


def test_the_resolution_is_in_the_parameters():
  for size, tokens in ((8, 16), (12, 36)):
    kernel = shapes(create("Mixer-S/2", image_size=size))["encoder"]["block_0"]["token_mlp"]["up"]
    assert kernel["kernel"].shape == (tokens, 12)


def test_the_token_mlp_knows_where_a_patch_is():
  model = create("Mixer-S/2")
  params, images = random_params(model), random_images(model)
  turned = images.reshape(3, 4, 2, 4, 2, 3)[:, ::-1].reshape(images.shape)  # rows of patches
  placed = [apply(model, params, x).features for x in (images, turned)]
  assert not np.allclose(*placed, atol=1e-2)
  for block in params["encoder"].values():  # without it nothing does
    block["token_mlp"]["down"]["kernel"] *= 0
    block["token_mlp"]["down"]["bias"] *= 0
  placed = [apply(model, params, x).features for x in (images, turned)]
  np.testing.assert_allclose(*placed, rtol=1e-5, atol=1e-5)


def test_parameters_start_as_in_googles_code():
  model = create("Mixer-S/2", width=64, mlp_dim=256, token_mlp_dim=128, image_size=16)
  images = np.zeros((1, 16, 16, 3), np.float32)
  params = jit(lambda key: model.init(key, images))(jax.random.key(0))["params"]
  block = params["encoder"]["block_0"]
  for name, inputs in (("token_mlp", (64, 128)), ("mlp", (64, 256))):
    for layer, n in zip(("up", "down"), inputs, strict=True):
      kernel = block[name][layer]["kernel"]
      assert kernel.shape[0] == n
      assert kernel.std() == pytest.approx(n**-0.5, rel=0.05)
      assert not block[name][layer]["bias"].any()
  assert not params["head"]["kernel"].any()


def test_every_activation_is_an_intermediate():
  model = create("Mixer-S/2")
  params, images = random_params(model), random_images(model)
  _, state = model.apply({"params": params}, images, mutable=["intermediates"])
  found = state["intermediates"]["encoder"]["block_1"]
  assert found["token_mlp"]["mlp_activations"][0].shape == (3, 16, 12)  # a row for each channel
  assert found["mlp"]["mlp_activations"][0].shape == (3, 16, 24)
