"""ViT and DeiT from the files of four projects, against forwards that read these files."""

import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict
from modeling import jit, tiny
from numpy_foreign_vit import Google, Timm, transformers_to_timm

from vit_jax import models, pretrained
from vit_jax.errors import UserError
from vit_jax.models.positions import sincos2d
from vit_jax.pretrained import rules
from vit_jax.pretrained.formats import FORMATS

D, HIDDEN, PATCHES, K = 16, 24, 16, 5  # those of `tiny`: 2 heads, depth 2, patches of 2 pixels


def draw(shapes, seed=0):
  """Random tensors; the scales of norms around 1, logits of a deviation near 1."""
  rng = np.random.default_rng(seed)

  def one(name, shape):
    x = rng.normal(size=shape) * (0.5 if name.startswith("head") else 0.25)
    is_scale = "norm" in name.lower() and name.endswith(("weight", "scale"))
    return np.float32(x + 1 if is_scale else x)

  return {name: one(name, shape) for name, shape in shapes.items()}


def timm_shapes(cls=True, dist=False, rows=None, pool=False, pre_logits=False):
  tokens = cls + dist
  shapes = {"cls_token": (1, 1, D)} if cls else {}
  shapes |= {"dist_token": (1, 1, D)} if dist else {}
  shapes["pos_embed"] = (1, PATCHES + tokens if rows is None else rows, D)
  shapes |= {"patch_embed.proj.weight": (D, 3, 2, 2), "patch_embed.proj.bias": (D,)}

  def linear(name, inputs, outputs):
    shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs), (outputs,)

  def norm(name):
    shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (D,), (D,)

  def mlp(name):
    linear(f"{name}.fc1", D, HIDDEN)
    linear(f"{name}.fc2", HIDDEN, D)

  for i in range(2):
    norm(f"blocks.{i}.norm1")
    linear(f"blocks.{i}.attn.qkv", D, 3 * D)
    linear(f"blocks.{i}.attn.proj", D, D)
    norm(f"blocks.{i}.norm2")
    mlp(f"blocks.{i}.mlp")
  norm("norm")
  if pool:
    shapes["attn_pool.latent"] = (1, 1, D)
    linear("attn_pool.q", D, D)
    linear("attn_pool.kv", D, 2 * D)
    linear("attn_pool.proj", D, D)
    norm("attn_pool.norm")
    mlp("attn_pool.mlp")
  if pre_logits:
    linear("pre_logits.fc", D, D)
  linear("head", D, K)
  if dist:
    linear("head_dist", D, K)
  return shapes


def google_shapes(old, cls=True, pool=False, pre_logits=False, rows=None):
  norm2, attention, mlp = (
    ("LayerNorm_2", "MultiHeadDotProductAttention_1", "MlpBlock_3")
    if old
    else ("LayerNorm_1", "MultiHeadDotProductAttention_0", "MlpBlock_0")
  )
  table = "Transformer/posembed_input/pos_embedding" if old else "pos_embedding"
  shapes = {"cls": (1, 1, D)} if cls else {}
  shapes[table] = (1, PATCHES + (old and cls) if rows is None else rows, D)
  shapes |= {"embedding/kernel": (2, 2, 3, D), "embedding/bias": (D,)}

  def attention_shapes(name):
    for part in ("query", "key", "value"):
      shapes[f"{name}/{part}/kernel"], shapes[f"{name}/{part}/bias"] = (D, 2, D // 2), (2, D // 2)
    shapes[f"{name}/out/kernel"], shapes[f"{name}/out/bias"] = (2, D // 2, D), (D,)

  def mlp_shapes(name):
    shapes[f"{name}/Dense_0/kernel"], shapes[f"{name}/Dense_0/bias"] = (D, HIDDEN), (HIDDEN,)
    shapes[f"{name}/Dense_1/kernel"], shapes[f"{name}/Dense_1/bias"] = (HIDDEN, D), (D,)

  def norm(name):
    shapes[f"{name}/scale"], shapes[f"{name}/bias"] = (D,), (D,)

  for i in range(2):
    block = f"Transformer/encoderblock_{i}"
    norm(f"{block}/LayerNorm_0")
    attention_shapes(f"{block}/{attention}")
    norm(f"{block}/{norm2}")
    mlp_shapes(f"{block}/{mlp}")
  norm("Transformer/encoder_norm")
  if pool:
    shapes["MAPHead_0/probe"] = (1, 1, D)
    attention_shapes("MAPHead_0/MultiHeadDotProductAttention_0")
    norm("MAPHead_0/LayerNorm_0")
    mlp_shapes("MAPHead_0/MlpBlock_0")
  if pre_logits:
    shapes["pre_logits/kernel"], shapes["pre_logits/bias"] = (D, D), (D,)
  shapes["head/kernel"], shapes["head/bias"] = (D, K), (K,)
  return shapes


def images(seed=1, size=8):
  return np.float32(np.random.default_rng(seed).normal(size=(3, size, size, 3)))


def logits(model, variables, x):
  return np.asarray(jit(lambda v, x: model.apply(v, x).logits)(variables, x))


def silent(_):
  pass


def loaded(state, model, tmp_path, suffix="npz"):
  path = tmp_path / f"x.{suffix}"
  if suffix == "npz":
    np.savez(path, **state)
  else:
    safetensors.numpy.save_file(state, path)
  return pretrained.load(path, model, log=silent)


def assert_parity(got, expected):
  assert 0.3 < expected.std() < 5
  np.testing.assert_allclose(got, expected, atol=2e-5 * max(1, expected.std()))


TIMM = {
  "class token": (dict(), dict()),
  "distilled": (dict(dist=True), dict(distilled=True)),
  "no_embed_class": (dict(rows=PATCHES), dict(cls_position=False)),
  "mean": (dict(cls=False), dict(pool="gap")),
  "attention": (dict(cls=False, pool=True), dict(pool="map")),
  "pre-logits": (dict(pre_logits=True), dict(pre_logits=True)),
}


@pytest.mark.parametrize("case", list(TIMM))
def test_timm(case, tmp_path):
  shapes, fields = TIMM[case]
  state, model = draw(timm_shapes(**shapes)), tiny(gelu="erf", **fields)
  variables = loaded(state, model, tmp_path, "safetensors")
  expected = Timm(state, 2)(images())
  assert_parity(logits(model, variables, images()), expected)
  back = rules.save(FORMATS[type(model)][0].rules(model), flatten_dict(variables, sep="/"))
  assert back.keys() == state.keys()
  for name, x in state.items():
    np.testing.assert_array_equal(back[name], x, err_msg=name)
  # A key's bias takes no part, and the class token's last look is all that counts.
  for wrong in (dict(form="tanh"), dict(change="k first"), dict(change="class row last")):
    if wrong == {"change": "class row last"} and (not shapes.get("cls", True) or "rows" in shapes):
      continue
    other = Timm(state, 2, **wrong)(images())
    assert np.abs(other - expected).max() > 1e-4, wrong


GOOGLE = {
  "vision_transformer": (dict(old=True), dict()),
  "of ImageNet-21k": (dict(old=True, pre_logits=True), dict(pre_logits=True)),
  "vision_transformer, gap": (dict(old=True, cls=False), dict(pool="gap")),
  "big_vision, tok": (dict(old=False), dict(cls_position=False)),
  "big_vision, tok, as a ViT of the paper": (dict(old=False), dict()),
  "big_vision, gap": (dict(old=False, cls=False), dict(pool="gap")),
  "big_vision, map": (dict(old=False, cls=False, pool=True), dict(pool="map")),
}


@pytest.mark.parametrize("case", list(GOOGLE))
@pytest.mark.parametrize("prefix", ["", "params/"])
def test_google(case, prefix, tmp_path):
  shapes, fields = GOOGLE[case]
  state, model = draw(google_shapes(**shapes)), tiny(**fields)
  variables = loaded({prefix + k: x for k, x in state.items()}, model, tmp_path)
  expected = Google(state, old=shapes["old"])(images())
  assert_parity(logits(model, variables, images()), expected)
  assert np.abs(Google(state, "erf", shapes["old"])(images()) - expected).max() > 1e-4


def test_google_with_stacked_blocks(tmp_path):
  state = draw(google_shapes(old=False, cls=False, pool=True))
  stacked = {k: x for k, x in state.items() if "encoderblock" not in k}
  for name in [k for k in state if "encoderblock_0/" in k]:
    parts = [state[name.replace("encoderblock_0", f"encoderblock_{i}")] for i in range(2)]
    stacked[name.replace("encoderblock_0", "encoderblock")] = np.stack(parts)
  expected = Google(state, old=False)(images())
  for scan in (False, True):
    model = tiny(pool="map", scan=scan)
    variables = loaded({f"params/{k}": x for k, x in stacked.items()}, model, tmp_path)
    assert_parity(logits(model, variables, images()), expected)


def test_fixed_positions_have_no_entry_at_google_and_one_at_timm(tmp_path):
  state = draw(google_shapes(old=False, cls=False))
  state["pos_embedding"] = sincos2d(4, 4, D)
  model = tiny(pool="gap", posemb="sincos2d")
  expected = Google(state, old=False)(images())
  del state["pos_embedding"]
  variables = loaded(state, model, tmp_path)
  assert_parity(logits(model, variables, images()), expected)
  timm = rules.save(FORMATS[type(model)][0].rules(model), flatten_dict(variables, sep="/"))
  np.testing.assert_array_equal(timm["pos_embed"], sincos2d(4, 4, D))
  again = loaded(timm, model, tmp_path)
  np.testing.assert_array_equal(again["params"]["head"]["kernel"], state["head/kernel"])
  timm["pos_embed"] = timm["pos_embed"] + 0.1
  with pytest.raises(UserError, match='pos_embed is not the fixed table.*posemb="learn"'):
    loaded(timm, model, tmp_path)


def transformers_shapes(prefix, dist=False):
  shapes = {f"{prefix}embeddings.cls_token": (1, 1, D)}
  if dist:
    shapes[f"{prefix}embeddings.distillation_token"] = (1, 1, D)
  shapes[f"{prefix}embeddings.position_embeddings"] = (1, PATCHES + 1 + dist, D)
  shapes[f"{prefix}embeddings.patch_embeddings.projection.weight"] = (D, 3, 2, 2)
  shapes[f"{prefix}embeddings.patch_embeddings.projection.bias"] = (D,)
  sizes = {f"attention.attention.{x}": (D, D) for x in ("query", "key", "value")} | {
    "attention.output.dense": (D, D),
    "intermediate.dense": (HIDDEN, D),
    "output.dense": (D, HIDDEN),
  }
  for i in range(2):
    layer = f"{prefix}encoder.layer.{i}"
    for name in ("layernorm_before", "layernorm_after"):
      shapes[f"{layer}.{name}.weight"] = shapes[f"{layer}.{name}.bias"] = (D,)
    for name, size in sizes.items():
      shapes[f"{layer}.{name}.weight"], shapes[f"{layer}.{name}.bias"] = size, size[:1]
  shapes[f"{prefix}layernorm.weight"] = shapes[f"{prefix}layernorm.bias"] = (D,)
  for name in ("cls_classifier", "distillation_classifier") if dist else ("classifier",):
    shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (K, D), (K,)
  return shapes


@pytest.mark.parametrize("dist", [False, True])
def test_transformers(dist, tmp_path):
  state = draw(transformers_shapes("deit." if dist else "vit.", dist))
  model = tiny(gelu="erf", distilled=dist)
  variables = loaded(state, model, tmp_path, "safetensors")
  assert_parity(logits(model, variables, images()), Timm(transformers_to_timm(state), 2)(images()))


@pytest.mark.parametrize("tokens", [1, 2])
def test_a_table_with_other_tokens_says_so(tokens, tmp_path):
  state = draw(timm_shapes(dist=tokens == 2))
  model = tiny(pool="gap") if tokens == 1 else tiny()
  with pytest.raises(UserError, match=f"entries of {tokens} token"):
    loaded(state, model, tmp_path)


def perturbed(module, seed=0):
  """Moves every parameter, so that none is at its initial value."""
  torch = pytest.importorskip("torch")
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for p in module.parameters():
      p += torch.randn(p.shape, generator=generator) * 0.02
    for name, p in module.named_parameters():
      if name.startswith("head"):
        p.copy_(torch.randn(p.shape, generator=generator) * p.shape[-1] ** -0.5)
  return module.eval()


TIMM_MODELS = {
  "vit_tiny_patch16_224": ("ViT-Ti/16", dict(), dict()),
  "deit_tiny_distilled_patch16_224": ("ViT-Ti/16", dict(), dict(distilled=True)),
  "vit_small_patch16_224": ("ViT-S/16", dict(no_embed_class=True), dict(cls_position=False)),
  "vit_base_patch16_siglip_224": ("ViT-B/16", dict(), dict(pool="map")),
}


def check_against_timm(name, ours, size, theirs_fields, our_fields, tmp_path, batch=2):
  torch, timm = pytest.importorskip("torch"), pytest.importorskip("timm")
  module = timm.create_model(name, num_classes=7, img_size=size, **theirs_fields)
  module = perturbed(module)
  model = models.create(ours, num_classes=7, image_size=size, gelu="erf", **our_fields)
  path = tmp_path / "x.pth"
  torch.save({"model": module.state_dict()}, path)
  variables = pretrained.load(path, model, log=silent)
  x = images(size=size)[:batch]
  with torch.no_grad():
    expected = module(torch.tensor(x).permute(0, 3, 1, 2)).numpy()
  got = np.asarray(model.apply(variables, x).logits)
  assert 0.3 < expected.std() < 3
  np.testing.assert_allclose(got, expected, atol=5e-5)
  pretrained.export(tmp_path / "x.safetensors", model, variables)
  back = safetensors.numpy.load_file(tmp_path / "x.safetensors")
  assert back.keys() == module.state_dict().keys()
  for key, value in module.state_dict().items():
    np.testing.assert_array_equal(back[key], value.numpy(), err_msg=key)


@pytest.mark.torch
@pytest.mark.parametrize("name", list(TIMM_MODELS))
def test_timms_own_models(name, tmp_path):
  ours, theirs_fields, our_fields = TIMM_MODELS[name]
  check_against_timm(
    name, ours, 48, {**theirs_fields, "depth": 2}, {**our_fields, "depth": 2}, tmp_path
  )


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "fields"),
  [("vit_base_patch16_224", {}), ("deit_base_distilled_patch16_224", dict(distilled=True))],
)
def test_a_full_size_model_of_timm(name, fields, tmp_path):
  check_against_timm(name, "ViT-B/16", 224, {}, fields, tmp_path, batch=1)


@pytest.mark.torch
def test_another_resolution_as_timm(tmp_path):
  torch, timm = pytest.importorskip("torch"), pytest.importorskip("timm")
  options = dict(num_classes=7, depth=1, embed_dim=32, num_heads=2)
  small = perturbed(timm.create_model("vit_tiny_patch16_224", img_size=48, **options))
  torch.save(small.state_dict(), tmp_path / "x.pth")
  large = timm.create_model("vit_tiny_patch16_224", img_size=80, **options)
  from timm.models.vision_transformer import checkpoint_filter_fn  # noqa: PLC0415

  large.load_state_dict(checkpoint_filter_fn(small.state_dict(), large))
  fields = dict(depth=1, width=32, mlp_dim=128, num_heads=2, gelu="erf")
  model = models.create("ViT-Ti/16", num_classes=7, image_size=48, **fields)
  variables = pretrained.load(tmp_path / "x.pth", model, 80, log=silent)
  x = images(size=80)
  with torch.no_grad():
    expected = large.eval()(torch.tensor(x).permute(0, 3, 1, 2)).numpy()
  got = model.clone(image_size=80).apply(variables, x).logits
  np.testing.assert_allclose(got, expected, atol=5e-5)
