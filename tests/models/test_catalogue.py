"""Names, counts and overrides."""

import itertools
import re

import jax
import jax.numpy as jnp
import pytest
from modeling import shapes

from vit_jax import models
from vit_jax.errors import UserError
from vit_jax.models import vit
from vit_jax.models.__main__ import main


def count(name, image_size=224, num_classes=1000, **overrides):
  model = models.create(
    name, num_classes=num_classes, image_size=image_size, scan=True, **overrides
  )
  return sum(x.size for x in jax.tree.leaves(shapes(model)))


# 1000 classes, 224 px: gap and map as big_vision has them, tok as vit_jax.
COUNTS = {
  "ViT-Ti/16": (5_717_416, 5_717_032, 6_161_704),
  "ViT-S/16": (22_050_664, 22_049_896, 23_823_976),
  "ViT-S/32": (22_878_952, 22_878_184, 24_652_264),
  "ViT-M/16": (None, 38_836_712, 41_988_584),
  "ViT-B/16": (86_567_656, 86_566_120, 93_653_224),
  "ViT-B/32": (88_224_232, 88_222_696, 95_309_800),
  "ViT-L/16": (304_326_632, 304_324_584, 316_919_784),
  "ViT-L/32": (306_535_400, 306_533_352, 319_128_552),
  "ViT-H/14": (632_045_800, 632_043_240, 651_719_400),
  "ViT-g/14": (1_012_611_432, 1_012_608_616, 1_037_857_384),
  "ViT-G/14": (1_844_440_680, 1_844_437_352, 1_882_797_416),
  "ViT-e/14": (None, 3_807_210_728, 3_875_135_720),
}


@pytest.mark.parametrize(("name", "pool"), list(itertools.product(COUNTS, ("tok", "gap", "map"))))
def test_parameter_counts(name, pool):
  expected = COUNTS[name][("tok", "gap", "map").index(pool)]
  if expected is not None:
    assert count(name, pool=pool) == expected


def test_counts_of_other_options():
  assert count("ViT-S/16", pool="gap", posemb="sincos2d") == 21_974_632
  assert count("ViT-B/16", cls_position=False) == 86_566_888  # big_vision's "tok"
  assert count("ViT-B/16", pre_logits=True) == 86_567_656 + 768 * 769
  # Table 2 of the paper, in millions, counts the trunk alone.
  for name, millions in (("ViT-s/28", 5.4), ("ViT-s/16", 5.0), ("ViT-B/28", 87)):
    head = 1001 * (256 if "s" in name else 768)
    assert (count(name, pool="gap") - head) / 1e6 == pytest.approx(millions, rel=0.01)


@pytest.mark.parametrize("name", vit.FAMILY.names)
def test_every_listed_name_builds_with_every_layer(name):
  model = models.create(name, num_classes=3, image_size=224, scan=True)
  params = shapes(model)
  assert params["encoder"]["blocks"]["norm1"]["scale"].shape == (model.depth, model.width)
  assert params["embedding"]["kernel"].shape[0] == int(name.split("/")[1])


def test_scan_has_as_many_parameters():
  unrolled = models.create("ViT-Ti/16", num_classes=1000, image_size=224)
  assert sum(x.size for x in jax.tree.leaves(shapes(unrolled))) == 5_717_416


def test_small_and_large_letters_are_different_models():
  s, large = (models.create(f"ViT-{x}/28", num_classes=2, image_size=56) for x in "sS")
  assert (s.width, s.depth, s.mlp_dim, s.num_heads) == (256, 6, 1024, 8)
  assert (large.width, large.depth, large.mlp_dim, large.num_heads) == (384, 12, 1536, 6)


@pytest.mark.parametrize(
  ("name", "hint"),
  [
    ("vit-s/28", "did you mean ViT-s/28 or ViT-S/28 (case matters)?"),
    ("vit-s/20", "did you mean ViT-s/20 or ViT-S/20 (case matters)?"),
    ("ViT-b/16", "did you mean ViT-B/16 (case matters)?"),
    ("ViT-B16", "did you mean ViT-B/16"),
    ("b/16", "did you mean ViT-B/16"),
    ("ViT-TI/13", "did you mean ViT-Ti/13"),
    ("ViT-B/0", "did you mean ViT-B/"),
    ("B/16", "did you mean ViT-B/16 or DeiT-B/16"),
    ("DeiT-B", "did you mean DeiT-B/16 or "),
    ("Mixer-B", "did you mean Mixer-B/32 or Mixer-B/16"),
    ("Swin-Tiny", "did you mean Swin-T or "),
    ("T2T-ViT-t-14", "did you mean T2T-ViT_t-14 (case matters)?"),
    ("CCT-5/3x1", "did you mean CCT-"),
    ("nonsense", "`python -m vit_jax.models` lists the names"),
  ],
)
def test_unknown_names_say_the_nearest(name, hint):
  with pytest.raises(UserError) as e:
    models.create(name, num_classes=2, image_size=32)
  assert str(e.value).startswith(f"unknown model '{name}': ")
  assert hint in str(e.value)


@pytest.mark.parametrize(
  ("theirs", "ours"),
  [
    ("vit_base_patch16_224", "ViT-B/16"),
    ("vit_small_patch32_384.augreg_in21k_ft_in1k", "ViT-S/32"),
    ("vit_tiny_patch16_224_in21k", "ViT-Ti/16"),
    ("vit_giant_patch14_224", "ViT-g/14"),
    ("vit_gigantic_patch14_224", "ViT-G/14"),
    ("deit_tiny_distilled_patch16_224", "DeiT-Ti/16-distilled"),
    ("mixer_b16_224", "Mixer-B/16"),
    ("resnet50", "ResNet-50"),
    ("resnetv2_50x1_bitm", "BiT-R50x1"),
    ("cait_xxs24_224", "CaiT-XXS24"),
    ("swin_large_patch4_window7_224", "Swin-L"),
    ("swin_large_patch4_window12_384", "Swin-L-w12"),
    ("cct_7_3x1_32_c100", "CCT-7/3x1"),
    ("cvt_7_4_32", "CVT-7/4"),
    ("vit_lite_6_4_32", "ViT-Lite-6/4"),
    ("t2t_vit_14", "T2T-ViT-14"),
    ("t2t_vit_t_14", "T2T-ViT_t-14"),
  ],
)
def test_names_of_other_projects_find_ours(theirs, ours):
  with pytest.raises(UserError, match=f"did you mean {re.escape(ours)} ") as e:
    models.create(theirs, num_classes=2, image_size=224)
  assert " or " not in str(e.value)


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    (dict(wdth=3), "unknown field of ViT 'wdth': did you mean 'width'?"),
    (dict(droppath=0.1), "unknown field of ViT 'droppath': did you mean 'drop_path'?"),
    (dict(parent=None), "unknown field of ViT 'parent'"),
    (dict(width="64"), "model field width must be an integer, got '64'"),
    (dict(depth=True), "model field depth must be an integer, got True"),
    (dict(depth=0), "model field depth must be at least 1, got 0"),
    (dict(pool="max"), 'model field pool must be one of "tok", "gap", "map", got \'max\''),
    (dict(posemb=None), 'model field posemb must be one of "learn", "sincos2d", got None'),
    (dict(remat=True), 'model field remat must be one of "none", "full", "dots", got True'),
    (dict(scan=1), "model field scan must be True or False, got 1"),
    (dict(dropout=1.0), "model field dropout is a rate in [0, 1), got 1.0"),
    (dict(drop_path=-0.1), "model field drop_path is a rate in [0, 1), got -0.1"),
    (dict(head_bias_init="a"), "model field head_bias_init must be a finite number, got 'a'"),
    (dict(dtype="float16"), 'model field dtype must be "float32" or "bfloat16"'),
    (dict(dtype="bf16"), 'model field dtype must be "float32" or "bfloat16"'),
    (dict(num_heads=5), "width=192 is not a multiple of num_heads=5"),
    (dict(image_size=44), "image_size=44 is not a multiple of patch_size=16: use 48 or another"),
    (dict(image_size=5), "image_size=5 is not a multiple of patch_size=16: use 16 or another"),
    (dict(posemb="sincos2d", width=6, num_heads=1), "a multiple of 4 and at least 8, got 6"),
    (dict(num_classes=0), "model field num_classes must be at least 1, got 0"),
  ],
)
def test_wrong_overrides_are_one_clear_line(overrides, message):
  with pytest.raises(UserError) as e:
    models.create("ViT-Ti/16", **{**dict(num_classes=10, image_size=32), **overrides})
  assert message in str(e.value)
  assert "\n" not in str(e.value)


@pytest.mark.parametrize("dtype", ["bfloat16", jnp.bfloat16, jnp.dtype("bfloat16")])
def test_dtypes_by_name_or_as_objects(dtype):
  model = models.create("ViT-mu/4", num_classes=2, image_size=8, dtype=dtype)
  assert model.dtype == jnp.bfloat16


def test_any_image_size_that_the_patch_divides():
  for size in (28, 84, 224, 518):
    params = shapes(models.create("ViT-mu/14", num_classes=2, image_size=size))
    assert params["pos_embedding"].shape == (1, (size // 14) ** 2 + 1, 32)


def test_command_lists_models(capsys):
  assert main(["B/16"]) == 0
  out = capsys.readouterr().out
  assert "ViT-B/16" in out
  assert "86,567,656" in out
  assert "35.128" in out
  assert "B/32" not in out
  assert main(["ViT-mu/7", "--image-size", "28", "--num-classes", "10"]) == 0
  assert "ViT-mu/7" in capsys.readouterr().out
  assert main(["B/16", "--image-size", "30"]) == 0
  assert "86," not in capsys.readouterr().out


def test_command_refuses_in_one_line(capsys):
  assert main(["ViT-B/"]) == 0  # part of several names
  assert main(["swin-b"]) == 0  # in another case, as no name has it in this one
  assert "Swin-B-w12" in capsys.readouterr().out
  assert main(["vit-q"]) == 2
  assert capsys.readouterr().err.startswith("error: unknown model 'vit-q'")
  assert main(["--num-classes", "0"]) == 2
  assert capsys.readouterr().err == "error: --num-classes must be at least 1\n"
