"""CaiT in the files of timm and of the DeiT project, which have the same names."""

import functools

from vit_jax.models.cait import CaiT
from vit_jax.pretrained import resize, rules
from vit_jax.pretrained.format import Format
from vit_jax.pretrained.rules import Rule


def _block(theirs: str, ours: str, attention: list[Rule]) -> list[Rule]:
  return [
    *rules.norm(f"{theirs}.norm1", f"{ours}/norm1"),
    *attention,
    rules.same(f"{theirs}.gamma_1", f"{ours}/layer_scale1"),
    *rules.norm(f"{theirs}.norm2", f"{ours}/norm2"),
    *rules.mlp(f"{theirs}.mlp", f"{ours}/mlp"),
    rules.same(f"{theirs}.gamma_2", f"{ours}/layer_scale2"),
  ]


def _self_attention(theirs: str, ours: str) -> list[Rule]:
  """`proj_l` mixes the heads of the scores ("logits"), `proj_w` those of the weights."""
  return [
    *rules.attention(theirs, ours),
    *rules.linear(f"{theirs}.proj_l", f"{ours}/talk_scores"),
    *rules.linear(f"{theirs}.proj_w", f"{ours}/talk_weights"),
  ]


def _class_attention(theirs: str, ours: str) -> list[Rule]:
  pairs = (("q", "query"), ("k", "key"), ("v", "value"))
  out = [rule for t, o in pairs for rule in rules.linear(f"{theirs}.{t}", f"{ours}/{o}")]
  return [*out, *rules.linear(f"{theirs}.proj", f"{ours}/out", axes=2)]


def _timm(model: CaiT) -> list[Rule]:
  positions = functools.partial(resize.positions, prefix=0)
  out = [
    *rules.conv("patch_embed.proj", "embedding"),
    rules.same("pos_embed", "pos_embedding", positions),
    rules.same("cls_token", "cls"),
  ]
  for i in range(model.depth):
    theirs, ours = f"blocks.{i}", f"encoder/block_{i}"
    out += _block(theirs, ours, _self_attention(f"{theirs}.attn", f"{ours}/attention"))
  for i in range(model.class_depth):
    theirs, ours = f"blocks_token_only.{i}", f"class_encoder/block_{i}"
    out += _block(theirs, ours, _class_attention(f"{theirs}.attn", f"{ours}/attention"))
  return [*out, *rules.norm("norm", "encoder_norm"), *rules.linear("head", "head")]


FORMATS = (Format("timm", _timm),)
