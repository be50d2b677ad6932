"""What load does with tensors that fit, and what it says about those that do not."""

import re

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from modeling import tiny
from test_export import assert_same, random_variables

from vit_jax import models, pretrained
from vit_jax.errors import UserError
from vit_jax.pretrained import match, resize, rules
from vit_jax.pretrained.formats import FORMATS
from vit_jax.pretrained.problems import problem


def state_of(model, variables, format_name="timm"):
  fmt = next(f for f in FORMATS[type(model)] if f.name == format_name)
  return rules.save(fmt.rules(model), flatten_dict(variables, sep="/"))


@pytest.fixture
def write(tmp_path):
  """Writes arrays by name; returns the path."""

  def do(arrays, name="x.npz"):
    np.savez(tmp_path / name, **arrays)
    return tmp_path / name

  return do


def load(path, model, *args, **kwargs):
  """Returns (variables, lines)."""
  lines = []
  return pretrained.load(path, model, *args, log=lines.append, **kwargs), lines


def test_the_report_says_what_happened_to_each_tensor(write):
  model = tiny(gelu="erf")
  variables = random_variables(model)
  state = state_of(model, variables) | {"extra": np.zeros(3, np.float32)}
  path = write({f"module.{k}": x for k, x in state.items()} | {"step": np.int64(3)})
  got, lines = load(path, tiny(gelu="erf", num_classes=7), 12, head="fresh", key=jax.random.key(1))
  parameters = sum(x.size for k, x in state.items() if not k.startswith(("head", "extra")))
  assert lines == [
    f"loaded 30 tensors ({parameters:,} numbers) from {path}, timm names, without the prefix "
    "'module.'",
    "resized module.pos_embed: 1x17x16 to 1x37x16, bicubic",
    "fresh: params/head/bias, params/head/kernel",
    "not used, in the file: module.extra, step, module.head.weight, module.head.bias",
  ]
  table = got["params"]["pos_embedding"]
  expected = resize.positions(state["pos_embed"], (1, 37, 16), "bicubic", prefix=1)
  np.testing.assert_array_equal(table, expected)
  assert got["params"]["head"]["kernel"].shape == (16, 7)
  out = tiny(gelu="erf", num_classes=7, image_size=12).apply(got, np.zeros((1, 12, 12, 3)))
  assert np.isfinite(out.logits).all()


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.module."])
def test_prefixes_are_removed(write, prefix):
  model = tiny()
  variables = random_variables(model)
  path = write({prefix + k: x for k, x in state_of(model, variables).items()})
  got, lines = load(path, model)
  assert_same(got, variables)
  assert f"without the prefix '{prefix}'" in lines[0]


@pytest.mark.parametrize("prefix", ["params/", "params/img/", "opt/target/", "target/"])
def test_googles_prefixes_are_removed_and_the_rest_is_named(write, prefix):
  model = tiny()
  variables = random_variables(model)
  state = state_of(model, variables, "google")
  other = {"params/txt/head/kernel": np.ones(2)} if "params" in prefix else {"opt/step": np.ones(1)}
  got, lines = load(write({prefix + k: x for k, x in state.items()} | other), model)
  assert_same(got, variables)
  assert lines[-1] == f"not used, in the file: {next(iter(other))}"


def test_a_fresh_head_is_the_models_own(write):
  model = tiny(head_zeroinit=False, head_bias_init=-3.0)
  variables = random_variables(model)
  path, key = write(state_of(model, variables)), jax.random.key(5)
  expected = model.init(key, np.zeros((1, 8, 8, 3), np.float32))["params"]["head"]
  got, _ = load(path, model, head="fresh", key=key)
  np.testing.assert_allclose(got["params"]["head"]["kernel"], expected["kernel"], atol=1e-6)
  np.testing.assert_array_equal(got["params"]["head"]["bias"], np.full(5, -3, np.float32))
  with pytest.raises(UserError, match="give key="):
    load(path, model, head="fresh")
  with pytest.raises(UserError, match="head must be one of keep, fresh, drop, got 'new'"):
    load(path, model, head="new")


def test_a_name_takes_classes_and_resolution_from_the_file(write):
  name = "ViT-mu/16"
  model = models.create(name, num_classes=7, image_size=96)
  variables = random_variables(model)
  path = write(state_of(model, variables))
  assert_same(load(path, name)[0], variables)
  got, lines = load(path, name, 64)
  assert got["params"]["pos_embedding"].shape == (1, 17, 32)
  assert "resized pos_embed: 1x37x32 to 1x17x32, bicubic" in lines
  with pytest.raises(UserError, match="did you mean"):
    load(path, "ViT-mu/16x")


def test_the_other_gelu_is_pointed_out(write):
  model = tiny(gelu="tanh")
  variables = random_variables(model)
  lines = load(write(state_of(model, variables)), model)[1]
  assert 'warning: the model of the file was trained with gelu="erf"' in lines[-1]
  assert 'use gelu="erf"' in lines[-1]
  assert len(load(write(state_of(model, variables, "google")), model)[1]) == 1
  model = tiny(gelu="erf")
  lines = load(write(state_of(model, variables, "google")), model)[1]
  assert 'use gelu="tanh"' in lines[-1]
  assert len(load(write(state_of(model, variables)), model)[1]) == 1


def test_exported_files_say_their_gelu_themselves(tmp_path):
  model = tiny(gelu="tanh")
  for to in ("timm", "vit_jax"):
    path = tmp_path / f"{to}.safetensors"
    pretrained.export(path, model, random_variables(model), to=to)
    assert len(load(path, model)[1]) == 1
    assert 'use gelu="tanh"' in load(path, tiny(gelu="erf"))[1][-1]


def test_our_own_files_are_resized_too(tmp_path):
  model, path = tiny(), tmp_path / "x.safetensors"
  variables = random_variables(model)
  pretrained.export(path, model, variables, to="vit_jax")
  got, lines = load(path, model, 12, interpolation="zoom")
  table = variables["params"]["pos_embedding"]
  expected = resize.positions(table, (1, 37, 16), "zoom", prefix=1)
  np.testing.assert_array_equal(got["params"]["pos_embedding"], expected)
  assert "resized params/pos_embedding: 1x17x16 to 1x37x16, zoom" in lines


MISFITS = {
  "classes": (
    dict(num_classes=9),
    r"head.weight has 5 classes \(5x16\), the model 9 \(9x16\): use num_classes=5, or head=.fresh",
  ),
  "patch size": (
    dict(patch_size=4),
    "patch_embed.proj.weight has shape 16x3x2x2, the model needs 16x3x4x4: another patch",
  ),
  "width": (dict(width=32), "cls_token has shape 1x1x16, the model needs 1x1x32 .*another width"),
  "hidden width": (dict(mlp_dim=32), "blocks.0.mlp.fc1.weight has shape 24x16.*hidden width"),
  "too deep": (dict(depth=3), "blocks.2.norm1.weight and 11 more is not in the file"),
  "too shallow": (dict(depth=1), "blocks.1.* has no place in the model: another depth"),
  "no class token": (dict(pool="gap"), 'entries of 1 token before the patches.*pool="tok"'),
  "no probe": (dict(pool="map"), 'attn_pool.latent.*no pooling by attention: use pool="tok"'),
  "not distilled": (dict(distilled=True), "dist_token.*use distilled=False"),
  "no pre-logits": (dict(pre_logits=True), "pre_logits.fc.weight.*use pre_logits=False"),
}


@pytest.mark.parametrize("case", list(MISFITS))
def test_a_mismatch_names_tensor_shapes_and_cause(write, case):
  overrides, message = MISFITS[case]
  path = write(state_of(tiny(), random_variables(tiny())))
  with pytest.raises(UserError, match=message) as error:
    load(path, tiny(**overrides))
  assert "\n" not in str(error.value)
  assert str(error.value).startswith(str(path))


# (the file's model, the model that it is loaded into, a part of the message)
CONFUSED = (
  ("ViT-Ti/16", "ViT-S/16", "another width, .*; the file looks like ViT-Ti/16"),
  ("ViT-Ti/16", "ViT-Ti/32", "another patch or kernel size; the file looks like ViT-Ti/16"),
  ("CaiT-XXS24", "CaiT-XXS36", "another variant; the file looks like CaiT-XXS24"),
  ("Swin-T", "Swin-S", "another variant; the file looks like Swin-T"),
  ("Swin-T", "Swin-B", "another width, .*; the file looks like Swin-T"),
  ("ResNet-101", "ResNet-50", "another depth; the file looks like ResNet-101"),
  ("BiT-R50x1", "BiT-R50x3", "another width, .*; the file looks like BiT-R50x1"),
  ("CCT-7/3x1", "CCT-7/7x2", "another patch or kernel size; the file looks like CCT-7/3x1"),
  ("T2T-ViT-7", "T2T-ViT-10", "another variant; the file looks like T2T-ViT-7"),
  ("Mixer-S/32", "Mixer-B/32", "another width, .*; the file looks like Mixer-S/32"),
  (
    "CaiT-XXS24",
    "ViT-Ti/16",
    "a file of CaiT: ViT has other names than blocks.0.attn.proj_l.weight",
  ),
  ("ViT-Ti/16", "Mixer-S/16", "a file of ViT: Mixer has other names than cls_token"),
)


@pytest.mark.parametrize(("theirs", "ours", "message"), CONFUSED)
def test_the_model_of_the_file_is_named(theirs, ours, message):
  model, other = (models.create(x, num_classes=5, image_size=32) for x in (theirs, ours))
  empty = {path: np.broadcast_to(np.float32(0), x) for path, x in match.shapes(model).items()}
  state = {
    name: x
    for rule in FORMATS[type(model)][0].rules(model)
    for name, x in zip(rule.theirs, rule.save(tuple(empty[p] for p in rule.ours)), strict=True)
  }
  try:
    said = problem(match.match(state, other, True, "x"), True)
  except UserError as error:
    said = str(error)
  assert re.search(message, said)


def test_no_variant_is_named_where_another_thing_is_wrong(write):
  model = models.create("ViT-mu/16", num_classes=5, image_size=32)
  state = state_of(model, random_variables(model))
  state["blocks.0.mlp.fc1.weight"] = state["blocks.0.mlp.fc1.weight"].T
  with pytest.raises(UserError, match="another width, number of heads or hidden width$"):
    load(write(state), model)
  state = state_of(model, random_variables(model)) | {"head.weight": np.ones((5, 7), np.float32)}
  with pytest.raises(UserError, match="head.weight has shape 5x7, the model needs 5x32: another w"):
    load(write(state), model)


@pytest.mark.parametrize("leave_out", ["cls_token", "blocks.1.norm2.bias", "norm.weight"])
def test_what_is_missing_is_an_error_and_never_fresh(write, leave_out):
  state = state_of(tiny(), random_variables(tiny()))
  del state[leave_out]
  for head in (dict(), dict(head="fresh", key=jax.random.key(0)), dict(head="drop")):
    with pytest.raises(UserError, match=f"{leave_out} is not in the file"):
      load(write(state), tiny(), **head)


REFUSED = {
  "fc_norm.weight": "averages the tokens before its last norm",
  "blocks.0.ls1.gamma": "LayerScale",
  "blocks.1.gamma_2": "LayerScale",
  "norm_pre.bias": "normalises before the first block",
  "reg_token": "register tokens",
  "blocks.0.attn.q_norm.weight": "normalises queries and keys",
  "blocks.0.norm1.running_var": "beside blocks.0.norm1.weight: a layer that ours is not",
  "blocks.0.mlp.fc1.weight_scale": "beside blocks.0.mlp.fc1.weight: a layer that ours is not",
  "pre_logits.fc.weight": "use pre_logits=True",
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_tensors_of_another_function_are_refused(write, name):
  state = state_of(tiny(), random_variables(tiny())) | {name: np.ones(16, np.float32)}
  with pytest.raises(UserError, match=f"{name} .*{REFUSED[name]}"):
    load(write(state), tiny())


def test_pre_logits_go_with_the_head(write):
  state = state_of(tiny(), random_variables(tiny())) | {"pre_logits.fc.bias": np.ones(16)}
  _, lines = load(write(state), tiny(), head="drop")
  assert "not used, in the file: pre_logits.fc.bias, head.weight, head.bias" in lines


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(write, bad):
  state = state_of(tiny(), random_variables(tiny()))
  state["blocks.1.mlp.fc1.weight"][3, 4] = bad
  with pytest.raises(UserError, match="blocks.1.mlp.fc1.weight has entries that are not finite"):
    load(write(state), tiny())


def test_files_of_nothing_known_say_what_they_have(write):
  with pytest.raises(
    UserError, match="no family that is known here: ViT has other names than a, b$"
  ):
    load(write({"a": np.ones(2), "b": np.ones(2)}), tiny())
  with pytest.raises(UserError, match="other names than no names at all"):
    load(write({}), tiny())


def test_other_numbers_become_float32_and_complex_ones_are_refused(write):
  model = tiny()
  variables = random_variables(model)
  state = {k: x.astype(np.float64) for k, x in state_of(model, variables).items()}
  assert_same(load(write(state), model)[0], variables)
  state["cls_token"] = state["cls_token"].astype(np.complex64)
  with pytest.raises(UserError, match="cls_token has complex64 entries"):
    load(write(state), model)


def test_a_table_without_an_entry_for_the_class_token_gets_zero(write):
  """big_vision and DeiT III add positions before the class token joins: the same function."""
  theirs, ours = tiny(cls_position=False), tiny()
  variables = random_variables(theirs)
  got, _ = load(write(state_of(theirs, variables, "google")), ours)
  images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
  np.testing.assert_allclose(
    ours.apply(got, images).logits, theirs.apply(variables, images).logits, atol=1e-5
  )
  np.testing.assert_array_equal(got["params"]["pos_embedding"][:, 0], 0)


def test_unknown_interpolation_and_image_size(write):
  path = write(state_of(tiny(), random_variables(tiny())))
  with pytest.raises(UserError, match="unknown interpolation 'lanczos'"):
    load(path, tiny(), interpolation="lanczos")
  with pytest.raises(UserError, match="image_size=9 is not a multiple of patch_size=2"):
    load(path, tiny(), 9)
  for model in (tiny(), "ViT-mu/16"):
    with pytest.raises(UserError, match="image_size must be at least 1, got 0"):
      load(path, model, 0)
