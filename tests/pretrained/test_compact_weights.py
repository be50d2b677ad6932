"""Files of Compact-Transformers, by a forward pass of their own in NumPy and by vit-pytorch."""

import functools

import jax
import numpy as np
import numpy_compact
import pytest

from vit_jax import models
from vit_jax.models.positions import sincos1d
from vit_jax.pretrained import formats, resize, rules

SIZES = dict(width=16, depth=2, mlp_dim=24)
TOLERANCE = dict(rtol=0, atol=5e-5)

# name -> (image size, what the state dict has)
CASES = {
  "ViT-Lite-2/4": (12, dict(tokens=9, patch=4, seqpool=False)),
  "CVT-2/4": (12, dict(tokens=9, patch=4, seqpool=True)),
  "CCT-2/3x1": (9, dict(tokens=25, layers=1, seqpool=True)),
  "CCT-2/3x2": (13, dict(tokens=16, layers=2, seqpool=True)),
  "CCT-2/7x1": (16, dict(tokens=16, layers=1, kernel=7, seqpool=True)),
  "CCT-2/7x2": (33, dict(tokens=9, layers=2, kernel=7, seqpool=True)),
}
every_case = pytest.mark.parametrize("name", CASES)


def create(name, **overrides):
  fields = dict(num_heads=2, num_classes=64, image_size=CASES[name][0])
  return models.create(name, **{**SIZES, **fields, **overrides})


@functools.cache
def state_of(name, **changes):
  return numpy_compact.random_state(**SIZES, classes=64, **{**CASES[name][1], **changes})


def images_of(size, batch=2):
  return np.float32(np.random.default_rng(1).normal(size=(batch, size, size, 3)))


def rules_of(model):
  (form,) = formats.FORMATS[type(model)]
  return form.rules(model)


def shapes_of(model):
  images = jax.ShapeDtypeStruct((1, model.image_size, model.image_size, 3), np.float32)
  leaves = jax.tree_util.tree_leaves_with_path(
    jax.eval_shape(model.init, jax.random.key(0), images)
  )
  return {"/".join(key.key for key in path): leaf.shape for path, leaf in leaves}


def logits_of(model, state):
  variables = {}
  for path, array in rules.load(rules_of(model), state, shapes_of(model)).items():
    *parents, last = path.split("/")
    node = variables
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = array
  return np.asarray(jax.jit(model.apply)(variables, images_of(model.image_size)).logits)


@functools.cache
def ours(name):
  return logits_of(create(name), state_of(name))


@every_case
def test_logits_equal_numpy(name):
  logits = numpy_compact.forward(state_of(name), images_of(CASES[name][0]), heads=2)
  assert 0.5 < logits.std() < 2
  np.testing.assert_allclose(ours(name), logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
  ("name", "wrong", "least"),
  [
    ("CCT-2/3x2", dict(pre_norm=True), 0.5),
    ("ViT-Lite-2/4", dict(pre_norm=True), 0.5),
    ("CCT-2/3x2", dict(tanh=True), 1e-4),
    ("CCT-2/3x2", dict(order="kqv"), 0.1),
    ("CCT-2/3x2", dict(pool_before=0), 0.1),
    ("CVT-2/4", dict(mean=True), 0.1),
    ("ViT-Lite-2/4", dict(roll=1), 0.1),
  ],
  ids=str,
)
def test_wrong_readings_fail_the_comparison(name, wrong, least):
  logits = numpy_compact.forward(state_of(name), images_of(CASES[name][0]), heads=2, **wrong)
  assert np.abs(ours(name) - logits).max() > least


@pytest.mark.parametrize("name", ["ViT-Lite-2/4", "CCT-2/3x2"])
def test_models_without_positions_have_no_table_in_their_files(name):
  state = state_of(name, positions=False)
  logits = numpy_compact.forward(state, images_of(CASES[name][0]), heads=2)
  np.testing.assert_allclose(logits_of(create(name, posemb="none"), state), logits, **TOLERANCE)


def test_small_activations_show_the_epsilon():
  name = "CCT-2/3x1"
  state = dict(state_of(name, positions=False))
  state["tokenizer.conv_layers.0.0.weight"] = state["tokenizer.conv_layers.0.0.weight"] / 50
  got = logits_of(create(name, posemb="none"), state)
  right, wrong = (
    numpy_compact.forward(state, images_of(CASES[name][0]), heads=2, epsilon=epsilon)
    for epsilon in (1e-5, 1e-6)
  )
  np.testing.assert_allclose(got, right, **TOLERANCE)
  assert np.abs(wrong - right).max() > 1e-3


@pytest.mark.parametrize("name", ["ViT-Lite-2/4", "CVT-2/4", "CCT-2/3x2"])
def test_a_fixed_table_is_in_files_and_loaded_from_them(name):
  state = dict(state_of(name))
  model = create(name, posemb="sine")
  np.testing.assert_allclose(logits_of(model, state), ours(name), **TOLERANCE)
  table = state["classifier.positional_emb"]
  state["classifier.positional_emb"] = sincos1d(*table.shape[1:])
  logits = numpy_compact.forward(state, images_of(CASES[name][0]), heads=2)
  np.testing.assert_allclose(logits_of(model, state), logits, **TOLERANCE)
  assert np.abs(logits - ours(name)).max() > 0.1


@every_case
def test_rules_name_every_tensor_once(name):
  for changes in ({}, dict(posemb="sine"), dict(posemb="none")):
    model = create(name, **changes)
    state = state_of(name, positions=model.posemb != "none")
    theirs = [n for rule in rules_of(model) for n in rule.theirs]
    ours_ = [path for rule in rules_of(model) for path in rule.ours]
    assert sorted(theirs) == sorted(state)
    assert sorted(ours_) == sorted(shapes_of(model))


@every_case
def test_round_trip_is_exact(name):
  model, state = create(name), state_of(name)
  loaded = rules.load(rules_of(model), state, shapes_of(model))
  assert {path: x.shape for path, x in loaded.items()} == shapes_of(model)
  back = rules.save(rules_of(model), loaded)
  assert back.keys() == state.keys()
  for key, array in state.items():
    np.testing.assert_array_equal(back[key], array, err_msg=key)


@pytest.mark.parametrize(("name", "prefix"), [("ViT-Lite-2/4", 1), ("CCT-2/3x2", 0)])
def test_positions_resize_without_the_class_token(name, prefix):
  (rule,) = (r for r in rules_of(create(name)) if r.resize is not None)
  table = state_of(name)["classifier.positional_emb"]
  shape = (1, prefix + 36, 16)
  got = rule.resize(table, shape, "bilinear_plain")
  np.testing.assert_array_equal(
    got, resize.positions(table, shape, "bilinear_plain", prefix=prefix)
  )
  np.testing.assert_array_equal(got[:, :prefix], table[:, :prefix])


def reference(name, model):
  """Returns the same network made of vit-pytorch's parts, every tensor at random."""
  torch = pytest.importorskip("torch")
  cct = pytest.importorskip("vit_pytorch.cct")
  conv = model.tokenizer == "conv"
  kernel = model.conv_kernel if conv else model.patch_size
  large = conv and kernel == 7
  tokenizer = cct.Tokenizer(
    kernel_size=kernel,
    stride=(2 if large else 1) if conv else kernel,
    padding=(3 if large else 1) if conv else 0,
    n_conv_layers=model.conv_layers if conv else 1,
    n_output_channels=model.width,
    activation=torch.nn.ReLU if conv else None,
    max_pool=conv,
    conv_bias=not conv,
  )
  size = model.image_size
  classifier = cct.TransformerClassifier(
    seq_pool=model.pool == "seqpool",
    embedding_dim=model.width,
    num_layers=model.depth,
    num_heads=model.num_heads,
    mlp_ratio=model.mlp_dim / model.width,
    num_classes=model.num_classes,
    sequence_length=tokenizer.sequence_length(3, size, size),
    positional_embedding={"learn": "learnable"}.get(model.posemb, model.posemb),
  )
  network = torch.nn.ModuleDict(dict(tokenizer=tokenizer, classifier=classifier)).eval()
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for key, x in network.named_parameters():
      noise = torch.randn(x.shape, generator=generator)
      if "norm" in key or x.ndim == 1 or key.endswith("emb"):
        x.add_(0.2 * noise)
      else:
        x.copy_(noise / x[0].numel() ** 0.5)
  state = {key: x.numpy() for key, x in network.state_dict().items()}
  images = torch.from_numpy(images_of(size)).permute(0, 3, 1, 2)
  with torch.no_grad():
    return state, classifier(tokenizer(images)).numpy()


@pytest.mark.torch
@pytest.mark.parametrize("posemb", ["learn", "sine"])
@every_case
def test_logits_equal_vit_pytorch(name, posemb):
  model = create(name, posemb=posemb)
  state, logits = reference(name, model)
  assert 0.5 < logits.std() < 2
  np.testing.assert_allclose(logits_of(model, state), logits, **TOLERANCE)
  # NumPy's version, too, is no other network.
  np.testing.assert_allclose(
    numpy_compact.forward(state, images_of(model.image_size), heads=2), logits, **TOLERANCE
  )


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "size"), [("ViT-Lite-7/4", 32), ("CVT-7/4", 32), ("CCT-7/3x1", 32), ("CCT-14/7x2", 224)]
)
def test_full_size_logits_equal_vit_pytorch(name, size):
  model = models.create(name, num_classes=100, image_size=size)
  state, logits = reference(name, model)
  assert 0.3 < logits.std() < 3
  np.testing.assert_allclose(
    logits_of(model, state) / logits.std(), logits / logits.std(), **TOLERANCE
  )
