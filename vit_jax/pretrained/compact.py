"""Files of SHI-Labs' Compact-Transformers: ViT-Lite, CVT and CCT."""

import functools

from vit_jax.models.compact import CompactTransformer
from vit_jax.pretrained import resize
from vit_jax.pretrained.format import Format
from vit_jax.pretrained.rules import Rule, attention, conv, linear, norm, same


def _block(theirs: str, ours: str) -> list[Rule]:
  return [
    *norm(f"{theirs}.pre_norm", f"{ours}/norm1"),
    *attention(f"{theirs}.self_attn", f"{ours}/attention", qkv_bias=False),
    *norm(f"{theirs}.norm1", f"{ours}/norm2"),
    *linear(f"{theirs}.linear1", f"{ours}/mlp/up"),
    *linear(f"{theirs}.linear2", f"{ours}/mlp/down"),
  ]


def _rules(model: CompactTransformer) -> list[Rule]:
  """Returns a rule for every tensor; row 0 of the positions is the class token's, if there is one.

  The project resizes tables by the method "bilinear_plain".
  """
  layers = "tokenizer.conv_layers"
  has_token = model.pool == "tok"
  if model.tokenizer == "conv":
    rules = [
      rule
      for i in range(model.conv_layers)
      for rule in conv(f"{layers}.{i}.0", f"tokenizer/conv_{i}", bias=False)
    ]
  else:
    rules = conv(f"{layers}.0.0", "embedding")
  if has_token:
    rules.append(same("classifier.class_emb", "cls"))
  if model.posemb != "none":
    positions = functools.partial(resize.positions, prefix=int(has_token))
    rules.append(same("classifier.positional_emb", "pos_embedding", positions))
  for i in range(model.depth):
    rules += _block(f"classifier.blocks.{i}", f"encoder/block_{i}")
  rules += norm("classifier.norm", "encoder_norm")
  if not has_token:
    rules += linear("classifier.attention_pool", "seq_pool/score")
  return [*rules, *linear("classifier.fc", "head")]


FORMATS = (Format("compact-transformers", _rules),)
