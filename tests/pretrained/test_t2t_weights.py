"""The official files of T2T-ViT, by a forward pass of their own in NumPy."""

import functools

import jax
import numpy as np
import numpy_t2t
import pytest

from vit_jax import models, pretrained
from vit_jax.pretrained import rules
from vit_jax.pretrained.t2t import FORMATS

SIZES = dict(width=24, depth=2, mlp_dim=40, token_width=8)
NAMES = {"performer": "T2T-ViT-7", "transformer": "T2T-ViT_t-14"}
TOLERANCE = dict(rtol=0, atol=5e-5)


def create(tokens, **overrides):
  fields = dict(**SIZES, num_heads=3, num_classes=64, image_size=32)
  return models.create(NAMES[tokens], **{**fields, **overrides})


@functools.cache
def state_of(tokens, grid=2):
  return numpy_t2t.random_state(tokens=tokens, grid=grid, classes=64, **SIZES)


def images_of(size=32):
  return np.float32(np.random.default_rng(1).normal(size=(2, size, size, 3)))


def shapes_of(model):
  images = jax.ShapeDtypeStruct((1, model.image_size, model.image_size, 3), np.float32)
  leaves = jax.tree_util.tree_leaves_with_path(
    jax.eval_shape(model.init, jax.random.key(0), images)
  )
  return {"/".join(key.key for key in path): leaf.shape for path, leaf in leaves}


def imported(model, state):
  flat = rules.load(FORMATS[0].rules(model), state, shapes_of(model))
  variables = {}
  for path, array in flat.items():
    *parents, last = path.split("/")
    node = variables
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = array
  return variables


def logits_of(model, state, images=None):
  images = images_of(model.image_size) if images is None else images
  return np.asarray(jax.jit(model.apply)(imported(model, state), images).logits)


@functools.cache
def ours(tokens):
  return logits_of(create(tokens), state_of(tokens))


@pytest.mark.parametrize("tokens", NAMES)
def test_logits_equal_numpy(tokens):
  logits, _ = numpy_t2t.forward(state_of(tokens), images_of(), heads=3)
  assert 0.5 < logits.std() < 2
  np.testing.assert_allclose(ours(tokens), logits, **TOLERANCE)


@pytest.mark.parametrize("tokens", NAMES)
def test_released_weights_have_scores_scaled_by_the_width(tokens):
  got = logits_of(create(tokens, attention_scale="width"), state_of(tokens))
  logits, _ = numpy_t2t.forward(state_of(tokens), images_of(), heads=3, scale=24**-0.5)
  np.testing.assert_allclose(got, logits, **TOLERANCE)
  assert np.abs(ours(tokens) - logits).max() > 0.01


@pytest.mark.parametrize("tokens", NAMES)
def test_rules_name_every_tensor_once(tokens):
  model = create(tokens)
  listed = FORMATS[0].rules(model)
  theirs = [name for rule in listed for name in rule.theirs]
  assert sorted(theirs) == sorted(state_of(tokens))
  assert sorted(path for rule in listed for path in rule.ours) == sorted(shapes_of(model))


@pytest.mark.parametrize("tokens", NAMES)
def test_round_trip_is_exact(tokens):
  model = create(tokens)
  listed, state = FORMATS[0].rules(model), state_of(tokens)
  back = rules.save(listed, rules.load(listed, state, shapes_of(model)))
  assert back.keys() == state.keys()
  for name, array in state.items():
    np.testing.assert_array_equal(back[name], array, err_msg=name)


def test_full_size_files_have_the_names_and_shapes_of_the_official_ones():
  for tokens, name in NAMES.items():
    model = models.create(name, num_classes=1000, image_size=224)
    theirs = numpy_t2t.shapes(
      tokens=tokens,
      width=model.width,
      depth=model.depth,
      mlp_dim=model.mlp_dim,
      grid=14,
      classes=1000,
    )
    ours = {path: np.zeros(shape, np.float32) for path, shape in shapes_of(model).items()}
    back = rules.save(FORMATS[0].rules(model), ours)
    assert {name: array.shape for name, array in back.items()} == theirs


def test_position_table_of_another_grid_is_resized():
  (rule,) = (r for r in FORMATS[0].rules(create("performer")) if r.theirs == ("pos_embed",))
  small = state_of("performer")["pos_embed"]
  large = rule.resize(small, (1, 17, 24), "bicubic")
  assert large.shape == (1, 17, 24)
  np.testing.assert_array_equal(large[:, 0], small[:, 0])  # the class token's
  back = rule.resize(np.ones_like(small), (1, 17, 24), "bicubic")
  np.testing.assert_allclose(back, 1, rtol=1e-6)


# Wrong readings: what another order of rows or columns in the file would mean.


def as_qkv(state):
  """The rows q, k, v where the file has k, q, v."""
  out = dict(state)
  for name in state:
    if ".kqv." in name:
      k, q, v = np.split(state[name], 3)
      out[name] = np.concatenate([q, k, v])
  return out


def windows_channel_last(state):
  """Windows as (row, column, channel) where the file has (channel, row, column)."""
  out = dict(state)
  for name, x in state.items():
    kernel = {3 * 7 * 7: 7, 8 * 3 * 3: 3}.get(x.shape[-1])
    if kernel and name.startswith("tokens_to_token."):
      windows = x.reshape(-1, kernel * kernel, x.shape[-1] // kernel**2)
      out[name] = windows.swapaxes(1, 2).reshape(x.shape)
  return out


def redrawn(state):
  rng = np.random.default_rng(9)
  return {
    k: np.float32(rng.normal(size=x.shape)) if k.endswith(".w") else x for k, x in state.items()
  }


def without_positions(state):
  return {k: 0 * x if k == "pos_embed" else x for k, x in state.items()}


@pytest.mark.parametrize(
  ("tokens", "change"),
  [
    ("performer", as_qkv),
    ("performer", windows_channel_last),
    ("transformer", windows_channel_last),
    ("performer", redrawn),
    ("performer", without_positions),
  ],
)
def test_wrong_readings_of_the_file_are_noticed(tokens, change):
  logits, _ = numpy_t2t.forward(change(state_of(tokens)), images_of(), heads=3)
  assert np.abs(ours(tokens) - logits).max() > 0.01


@pytest.mark.parametrize(
  ("tokens", "reading"),
  [
    ("transformer", dict(token_scale=8**-0.5)),
    ("performer", dict(scale=24**-0.5)),
    ("performer", dict(splits=((7, 4, 3), (3, 2, 1), (3, 2, 1)))),
  ],
)
def test_wrong_readings_of_the_network_are_noticed(tokens, reading):
  logits, _ = numpy_t2t.forward(state_of(tokens), images_of(), heads=3, **reading)
  assert np.abs(ours(tokens) - logits).max() > 0.01


def test_other_strides_have_the_windows_they_state():
  model = create("performer", strides=(2, 2, 1), image_size=8)
  sizes = dict(kernels=(3, 3, 3), **SIZES)
  state = numpy_t2t.random_state(tokens="performer", grid=2, classes=64, **sizes)
  images = images_of(8)
  logits, _ = numpy_t2t.forward(state, images, heads=3, splits=((3, 2, 1), (3, 2, 1), (3, 1, 1)))
  np.testing.assert_allclose(logits_of(model, state, images), logits, **TOLERANCE)


@pytest.mark.torch
def test_checkpoints_of_the_official_training_load(tmp_path):
  torch = pytest.importorskip("torch")
  state = state_of("performer")
  tensors = {f"module.{name}": torch.from_numpy(x) for name, x in state.items()}
  torch.save({"epoch": 9, "arch": "t2t_vit_7", "state_dict_ema": tensors}, tmp_path / "t2t.pth.tar")
  large = create("performer", image_size=64, scan=True)
  variables = pretrained.load(
    tmp_path / "t2t.pth.tar", large, interpolation="bicubic_plain", log=lambda line: None
  )
  images = images_of(64)
  # The official code's way to another resolution.
  table = tensors["module.pos_embed"]
  grid = table[:, 1:].reshape(1, 2, 2, -1).permute(0, 3, 1, 2)
  grid = torch.nn.functional.interpolate(grid, size=(4, 4), mode="bicubic")
  grid = grid.permute(0, 2, 3, 1).reshape(1, 16, -1)
  resized = {**state, "pos_embed": torch.cat([table[:, :1], grid], dim=1).numpy()}
  logits, _ = numpy_t2t.forward(resized, images, heads=3)
  np.testing.assert_allclose(jax.jit(large.apply)(variables, images).logits, logits, **TOLERANCE)
