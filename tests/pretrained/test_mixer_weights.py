"""timm's and Google's files of MLP-Mixer."""

import numpy as np
import numpy_mixer
import parity
import pytest

from vit_jax import models, pretrained
from vit_jax.errors import UserError
from vit_jax.pretrained.mixer import FORMATS

SIZES = dict(width=24, depth=3, token_mlp_dim=10, mlp_dim=40)
TIMM, GOOGLE = FORMATS


def create(**overrides):
  fields = dict(**SIZES, patch_size=4, num_classes=64, image_size=12, gelu="erf")
  return models.create("Mixer-S/4", **{**fields, **overrides})


def random_state(seed=0):
  return numpy_mixer.random_state(seed, **SIZES, patch=4, tokens=9, classes=64)


@pytest.fixture(scope="module")
def state():
  return random_state()


@pytest.fixture(scope="module")
def output(state):
  model = create()
  return parity.outputs_of(model, TIMM.rules(model), state, parity.images_for(model))


def test_logits_equal_numpy(state, output):
  logits, features = numpy_mixer.forward(state, parity.images_for(create()))
  assert 0.5 < logits.std() < 2
  np.testing.assert_allclose(output.logits, logits, rtol=0, atol=1e-5)
  np.testing.assert_allclose(output.features, features, rtol=0, atol=1e-5)


def test_the_default_gelu_is_googles(state):
  model = models.create("Mixer-S/4", num_classes=64, image_size=12, **SIZES)
  images = parity.images_for(model)
  got = parity.outputs_of(model, TIMM.rules(model), state, images).logits
  np.testing.assert_allclose(got, numpy_mixer.forward(state, images, "tanh")[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("mistake", ["tanh", "epsilon", "channels first"])
def test_wrong_readings_are_seen(state, output, mistake):
  logits, _ = numpy_mixer.forward(state, parity.images_for(create()), mistake)
  assert np.abs(output.logits - logits).max() > 1e-4


def test_round_trip_is_exact(state):
  parity.assert_round_trip(create(), TIMM.rules(create()), state)


def google(state):
  """The tensors as vision_transformer and big_vision name them and lay them out."""
  out = {}
  for name, x in state.items():
    *path, kind = name.split(".")
    is_norm = "norm" in path[-1]
    new = {"weight": "scale" if is_norm else "kernel", "bias": "bias"}[kind]
    if x.ndim == 4:
      x = x.transpose(2, 3, 1, 0)
    elif x.ndim == 2:
      x = x.T
    module = ".".join(path)
    if path[0] == "blocks":
      inside = {
        "norm1": "LayerNorm_0",
        "norm2": "LayerNorm_1",
        "mlp_tokens.fc1": "token_mixing/Dense_0",
        "mlp_tokens.fc2": "token_mixing/Dense_1",
        "mlp_channels.fc1": "channel_mixing/Dense_0",
        "mlp_channels.fc2": "channel_mixing/Dense_1",
      }[".".join(path[2:])]
      module = f"MixerBlock_{path[1]}/{inside}"
    module = {"stem.proj": "stem", "norm": "pre_head_layer_norm"}.get(module, module)
    out[f"{module}/{new}"] = x
  return out


def older(tensors):
  """The same in the tree of the paper's code; kernels and biases have axes of size 1."""
  out = {}
  for name, x in tensors.items():
    parts = name.split("/")
    if parts[0].startswith("MixerBlock_"):
      block = "Mixer/encoderblock_" + parts[0].split("_")[1]
      if parts[1].startswith("LayerNorm"):
        out[f"{block}/LayerNorm_{2 * int(parts[1][-1])}/{parts[2]}"] = x
      else:
        kind = f"{parts[1]}_phase_0/{parts[3]}{int(parts[2][-1]) + 1}"
        out[f"{block}/{kind}"] = x[None]
      continue
    head = {"stem": "embedding", "pre_head_layer_norm": "Mixer/encoder_norm"}
    out["/".join([head.get(parts[0], parts[0]), *parts[1:]])] = x
  return out


@pytest.mark.parametrize("layout", [google, lambda state: older(google(state))])
def test_google_files_hold_the_same(state, layout):
  model = create()
  tensors = GOOGLE.rename(layout(state))
  parity.assert_round_trip(model, GOOGLE.rules(model), tensors)
  mine = parity.imported(model, GOOGLE.rules(model), tensors)
  timms = parity.imported(model, TIMM.rules(model), state)
  np.testing.assert_equal(mine, timms)


@pytest.mark.parametrize("layout", [dict, google])
def test_another_resolution_is_refused(state, layout, tmp_path):
  np.savez(tmp_path / "mixer.npz", **layout(state))
  with pytest.raises(UserError, match=r"9.* the model needs .*16.*: another image size"):
    pretrained.load(tmp_path / "mixer.npz", create(image_size=16))


def test_published_files_have_these_names_and_shapes():
  model = models.create("Mixer-B/16", num_classes=1000, image_size=224)
  sizes = {name: getattr(model, name) for name in SIZES}
  names = numpy_mixer.shapes(**sizes, patch=16, tokens=196, classes=1000)
  assert sum(np.prod(shape) for shape in names.values()) == 59_880_472
  assert {n for rule in TIMM.rules(model) for n in rule.theirs} == set(names)


def _assert_equal_timm(module, model):
  state, images = parity.perturb(module), parity.images_for(model)
  expected = parity.torch_logits(module, images)
  got = parity.outputs_of(model, TIMM.rules(model), state, images).logits
  np.testing.assert_allclose(got / expected.std(), expected / expected.std(), rtol=0, atol=5e-5)


@pytest.mark.torch
def test_logits_equal_timm():
  timm = pytest.importorskip("timm")
  module = timm.models.mlp_mixer.MlpMixer(
    num_classes=64, img_size=12, patch_size=4, num_blocks=3, embed_dim=24, mlp_ratio=(0.5, 2.0)
  )
  _assert_equal_timm(module, create(token_mlp_dim=12, mlp_dim=48))


@pytest.mark.torch
@pytest.mark.slow
def test_full_size_logits_equal_timm():
  timm = pytest.importorskip("timm")
  model = models.create("Mixer-B/32", num_classes=1000, image_size=224, gelu="erf")
  _assert_equal_timm(timm.create_model("mixer_b32_224"), model)
