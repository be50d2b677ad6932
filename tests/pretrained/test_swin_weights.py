"""Swin's state dicts, by all names: the logits of an independent NumPy version, and timm's."""

import functools
import math
import re

import numpy as np
import numpy_swin
import pytest
from parity import assert_round_trip, outputs_of, shapes_of

from vit_jax import models
from vit_jax.pretrained import resize, rules
from vit_jax.pretrained.swin import FORMATS

TIMM, MICROSOFT, TRANSFORMERS = FORMATS
WIDTH, HEAD_DIM, DEPTHS, CLASSES = 16, 8, (2, 2, 1), 10
TOLERANCE = dict(rtol=0, atol=5e-5)

# image_size, patch_size, window, and what happens to the maps.
CASES = {
  "whole windows": (32, 4, 4),  # 8 in two windows, 4 and 2 in one
  "padded maps": (26, 2, 3),  # 13 -> 15, 7 -> 9, 4 -> 6; odd sides before merging
  "padded image": (30, 4, 3),
  "small maps": (18, 2, 12),  # 9, 5 and 3 in one window
}


def create(case="padded maps", **overrides):
  image_size, patch_size, window = CASES[case]
  fields = dict(width=WIDTH, head_dim=HEAD_DIM, depths=DEPTHS, patch_size=patch_size, window=window)
  return models.create(
    "Swin-T", **{**fields, "num_classes": CLASSES, "image_size": image_size, **overrides}
  )


def names_and_shapes(image_size, patch_size, window):
  """The tensors as timm has them, written out."""
  out = {
    "patch_embed.proj.weight": (WIDTH, 3, patch_size, patch_size),
    "patch_embed.proj.bias": (WIDTH,),
    "patch_embed.norm.weight": (WIDTH,),
    "patch_embed.norm.bias": (WIDTH,),
  }
  d, side = WIDTH, math.ceil(image_size / patch_size)
  for i, depth in enumerate(DEPTHS):
    if i:
      merging = f"layers.{i}.downsample"
      out |= {f"{merging}.norm.weight": (4 * d,), f"{merging}.norm.bias": (4 * d,)}
      out[f"{merging}.reduction.weight"] = (2 * d, 4 * d)
      d, side = 2 * d, math.ceil(side / 2)
    for j in range(depth):
      b = f"layers.{i}.blocks.{j}"
      out |= {f"{b}.norm{n}.{x}": (d,) for n in (1, 2) for x in ("weight", "bias")}
      rows = (2 * min(window, side) - 1) ** 2
      out[f"{b}.attn.relative_position_bias_table"] = (rows, d // HEAD_DIM)
      out |= {f"{b}.attn.qkv.weight": (3 * d, d), f"{b}.attn.qkv.bias": (3 * d,)}
      out |= {f"{b}.attn.proj.weight": (d, d), f"{b}.attn.proj.bias": (d,)}
      out |= {f"{b}.mlp.fc1.weight": (4 * d, d), f"{b}.mlp.fc1.bias": (4 * d,)}
      out |= {f"{b}.mlp.fc2.weight": (d, 4 * d), f"{b}.mlp.fc2.bias": (d,)}
  out |= {"norm.weight": (d,), "norm.bias": (d,)}
  return out | {"head.fc.weight": (CLASSES, d), "head.fc.bias": (CLASSES,)}


def random_state(shapes, seed=0):
  """No tensor at a special value, and logits of a standard deviation near 1."""
  rng = np.random.default_rng(seed)

  def draw(name, shape):
    x = rng.normal(size=shape)
    if "patch_embed.proj" in name:
      x *= 0.1  # what is added to the variance of the next norm then shows in the logits
    if "norm" in name:
      return np.float32(0.3 * x + name.endswith("weight"))
    if len(shape) == 1 or "bias_table" in name:
      return np.float32(0.5 * x)
    return np.float32(x / np.sqrt(math.prod(shape[1:])))

  return {name: draw(name, shape) for name, shape in shapes.items()}


@functools.cache
def state_of(case):
  return random_state(names_and_shapes(*CASES[case]))


def images_of(size, batch=2):
  # A slope and noise, so that places in the image differ and do not average out.
  rng = np.random.default_rng(1)
  slope = np.linspace(-1, 1, size)[:, None, None] * rng.normal(size=(batch, 1, size, 3))
  return np.float32(slope + rng.normal(size=(batch, size, size, 3)))


@functools.cache
def expected(case, **options):
  state = {name: x.astype(np.float64) for name, x in state_of(case).items()}
  image_size, _, window = CASES[case]
  images = images_of(image_size).astype(np.float64)
  return numpy_swin.forward(state, images, DEPTHS, window, HEAD_DIM, **options)


def logits_of(model, state, fmt=TIMM, images=None):
  images = images_of(model.image_size) if images is None else images
  return outputs_of(model, fmt.rules(model), fmt.rename(state), images).logits


def in_microsofts_names(state):
  """As Microsoft's code writes it, with its buffers."""
  out = {}
  for name, x in state.items():
    name = re.sub(r"^layers\.(\d)\.down", lambda m: f"layers.{int(m[1]) - 1}.down", name)
    out[name.replace("head.fc.", "head.")] = x
  return out | {
    "layers.0.blocks.1.attn_mask": np.zeros((4, 9, 9), np.float32),
    "layers.0.blocks.1.attn.relative_position_index": np.zeros((9, 9), np.int64),
  }


IN_TRANSFORMERS = {
  "patch_embed.proj": "swin.embeddings.patch_embeddings.projection",
  "patch_embed.norm": "swin.embeddings.norm",
  "norm1": "layernorm_before",
  "norm2": "layernorm_after",
  "attn.relative": "attention.self.relative",
  "attn.proj": "attention.output.dense",
  "mlp.fc1": "intermediate.dense",
  "mlp.fc2": "output.dense",
}


def in_transformers_names(state):
  out = {}
  for name, x in in_microsofts_names(state).items():
    for theirs, new in IN_TRANSFORMERS.items():
      name = name.replace(theirs, new)
    name = re.sub("^layers", "swin.encoder.layers", name)
    name = re.sub("^norm", "swin.layernorm", re.sub("^head", "classifier", name))
    if ".attn.qkv." in name:
      for part, rows in zip(("query", "key", "value"), np.split(x, 3), strict=True):
        out[name.replace("attn.qkv", f"attention.self.{part}")] = rows
    else:
      out[name] = x
  return out


every_format = pytest.mark.parametrize(
  ("fmt", "write"),
  [(TIMM, dict), (MICROSOFT, in_microsofts_names), (TRANSFORMERS, in_transformers_names)],
  ids=[f.name for f in FORMATS],
)


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_numpy(case):
  assert 0.5 < expected(case).std() < 2
  np.testing.assert_allclose(logits_of(create(case), state_of(case)), expected(case), **TOLERANCE)


@every_format
def test_round_trip_is_exact_and_whole(fmt, write):
  model = create()
  assert_round_trip(model, fmt.rules(model), fmt.rename(write(state_of("padded maps"))))


@every_format
def test_every_naming_is_the_same_model(fmt, write):
  state = state_of("padded maps")
  theirs = rules.load(fmt.rules(create()), fmt.rename(write(state)), shapes_of(create()))
  for path, x in rules.load(TIMM.rules(create()), state, shapes_of(create())).items():
    np.testing.assert_array_equal(theirs[path], x, err_msg=path)


def changed(state, change, part):
  return {name: change(x) if part in name else x for name, x in state.items()}


def _rows_for_columns(table):
  side = math.isqrt(len(table))
  return table.reshape(side, side, -1).swapaxes(0, 1).reshape(table.shape)


def _row_by_row(x):
  parts = np.split(x, 4, axis=-1)
  return np.concatenate([parts[i] for i in (0, 2, 1, 3)], axis=-1)


@pytest.mark.parametrize(
  ("change", "part"),
  [
    (lambda table: table[::-1], "bias_table"),  # key - query instead of query - key
    (_rows_for_columns, "bias_table"),
    (_row_by_row, "downsample"),
    (lambda x: np.concatenate([np.split(x, 3)[i] for i in (1, 0, 2)]), "qkv"),
    (lambda x: x.T, "attn.proj.weight"),
    (lambda x: x.swapaxes(2, 3), "patch_embed.proj.weight"),
  ],
  ids=["key - query", "rows for columns", "row by row", "k, q, v", "transposed", "W, H"],
)
def test_wrong_readings_fail_the_comparison(change, part):
  case = "padded maps"
  wrong = logits_of(create(case), changed(state_of(case), change, part))
  assert np.abs(wrong - expected(case)).max() > 1e-2


@pytest.mark.parametrize(
  "options", [dict(shifts=False), dict(masked=False), dict(pad_first=True)], ids=str
)
def test_shift_mask_and_order_of_padding_show_in_the_logits(options):
  case = "padded maps"
  assert np.abs(expected(case, **options) - expected(case)).max() > 1e-2


def test_another_epsilon_fails_the_comparison(monkeypatch):
  case = "padded maps"
  monkeypatch.setattr("vit_jax.models.swin.EPSILON", 1e-6)
  wrong = logits_of(create(case), state_of(case))
  assert not np.allclose(wrong, expected(case), **TOLERANCE)


def test_the_other_gelu_fails_the_comparison():
  case = "padded maps"
  wrong = logits_of(create(case, gelu="tanh"), state_of(case))
  assert not np.allclose(wrong, expected(case), **TOLERANCE)


def test_bias_tables_are_resized_and_nothing_else():
  small, large = create("whole windows"), create("whole windows", window=6)
  assert {n for rule in TIMM.rules(small) if rule.resize for n in rule.theirs} == {
    n for n in state_of("whole windows") if n.endswith("relative_position_bias_table")
  }
  have, want = shapes_of(small), shapes_of(large)
  differ = {path for path in want if have[path] != want[path]}
  # Maps of 8, 4 and 2: the window of 6 fits into the first alone.
  assert differ == {f"params/stage_0/block_{j}/bias_table" for j in (0, 1)}
  table = state_of("whole windows")["layers.0.blocks.0.attn.relative_position_bias_table"]
  assert resize.bias_table(table, want[differ.pop()], "bicubic").shape == (11 * 11, 2)


def timm_logits(model, state, images):
  """timm's logits, for parameters of which none keeps its value."""
  torch = pytest.importorskip("torch")
  model.load_state_dict({name: torch.tensor(x) for name, x in state.items()})
  with torch.no_grad():
    return model.eval()(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()


@pytest.mark.torch
@pytest.mark.parametrize(
  ("image_size", "patch_size", "window"),
  [*(CASES[c] for c in CASES if c != "padded image"), (100, 4, 7), (56, 4, 7), (32, 4, 7)],
)
def test_logits_equal_timm(image_size, patch_size, window):
  timm = pytest.importorskip("timm")
  theirs = timm.models.swin_transformer.SwinTransformer(
    img_size=image_size,
    patch_size=patch_size,
    window_size=window,
    embed_dim=WIDTH,
    depths=DEPTHS,
    num_heads=[WIDTH * 2**i // HEAD_DIM for i in range(len(DEPTHS))],
    num_classes=CLASSES,
  )
  shapes = {name: x.shape for name, x in theirs.state_dict().items()}
  assert shapes == names_and_shapes(image_size, patch_size, window)
  state, images = random_state(shapes), images_of(image_size)
  logits = timm_logits(theirs, state, images)
  assert 0.5 < logits.std() < 2
  model = create(image_size=image_size, patch_size=patch_size, window=window)
  np.testing.assert_allclose(logits_of(model, state, images=images), logits, **TOLERANCE)


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "theirs"),
  [
    ("Swin-T", "swin_tiny_patch4_window7_224"),
    ("Swin-B-w12", "swin_base_patch4_window12_384"),
  ],
)
def test_full_size_logits_equal_timm(name, theirs):
  timm = pytest.importorskip("timm")
  size = models.find(name).image_size
  theirs = timm.create_model(theirs)
  state = random_state({key: x.shape for key, x in theirs.state_dict().items()})
  images = images_of(size, batch=1)
  logits = timm_logits(theirs, state, images)
  model = models.create(name, num_classes=1000, image_size=size)
  got = logits_of(model, state, images=images)
  np.testing.assert_allclose(got / logits.std(), logits / logits.std(), **TOLERANCE)


@pytest.mark.torch
def test_logits_equal_transformers(tmp_path):
  """Where whole windows cover all maps; elsewhere transformers adds zeros before it shifts."""
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  config = transformers.SwinConfig(
    image_size=32,
    patch_size=2,
    window_size=4,
    embed_dim=WIDTH,
    depths=DEPTHS,
    num_heads=[WIDTH * 2**i // HEAD_DIM for i in range(len(DEPTHS))],
    num_labels=CLASSES,
  )
  model = create(image_size=32, patch_size=2, window=4)
  state = random_state(names_and_shapes(32, 2, 4))
  written = {k: torch.tensor(x) for k, x in in_transformers_names(state).items()}
  torch.save({k: x for k, x in written.items() if "attn" not in k}, tmp_path / "pytorch_model.bin")
  config.save_pretrained(tmp_path)
  theirs = transformers.SwinForImageClassification.from_pretrained(tmp_path).eval()
  images = images_of(32)
  with torch.no_grad():
    logits = theirs(torch.tensor(images.transpose(0, 3, 1, 2))).logits.numpy()
  assert 0.5 < logits.std() < 2
  got = logits_of(model, in_transformers_names(state), TRANSFORMERS, images)
  np.testing.assert_allclose(got, logits, **TOLERANCE)
