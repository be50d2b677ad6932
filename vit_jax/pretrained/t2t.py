"""T2T-ViT in the files of its authors (yitu-opensource/T2T-ViT)."""

from functools import partial

from vit_jax.models.t2t import T2TViT
from vit_jax.pretrained import resize, rules
from vit_jax.pretrained.format import Format
from vit_jax.pretrained.rules import Rule


def _token_block(theirs: str, ours: str, performer: bool) -> list[Rule]:
  def projections(*names: str) -> list[str]:
    return [f"{ours}/{name}" for name in names]

  out = [*rules.norm(f"{theirs}.norm1", f"{ours}/norm1")]
  out += rules.norm(f"{theirs}.norm2", f"{ours}/norm2")
  if performer:
    # The keys come first here.
    out += rules.packed(f"{theirs}.kqv", projections("key", "query", "value"))
    out += rules.linear(f"{theirs}.proj", f"{ours}/out")
    out.append(rules.same(f"{theirs}.w", f"{ours}/features"))
    out += rules.linear(f"{theirs}.mlp.0", f"{ours}/mlp/up")
    return out + rules.linear(f"{theirs}.mlp.2", f"{ours}/mlp/down")
  out += rules.packed(f"{theirs}.attn.qkv", projections("query", "key", "value"), bias=False)
  out += rules.linear(f"{theirs}.attn.proj", f"{ours}/out")
  return out + rules.mlp(f"{theirs}.mlp", f"{ours}/mlp")


def _rules(model: T2TViT) -> list[Rule]:
  out = []
  for i in range(2):
    theirs = f"tokens_to_token.attention{i + 1}"
    out += _token_block(theirs, f"tokens_{i}", model.token_block == "performer")
  out += rules.linear("tokens_to_token.project", "project")
  out.append(rules.same("cls_token", "cls"))
  resize_table = partial(resize.positions, prefix=1)
  out.append(rules.same("pos_embed", "pos_embedding", resize=resize_table))
  for i in range(model.depth):
    theirs, ours = f"blocks.{i}", f"encoder/block_{i}"
    out += rules.norm(f"{theirs}.norm1", f"{ours}/norm1")
    out += rules.attention(f"{theirs}.attn", f"{ours}/attention", qkv_bias=False)
    out += rules.norm(f"{theirs}.norm2", f"{ours}/norm2")
    out += rules.mlp(f"{theirs}.mlp", f"{ours}/mlp")
  return [*out, *rules.norm("norm", "encoder_norm"), *rules.linear("head", "head")]


# What no tensor tells: the released weights want a model with `attention_scale="width"`. Their
# code resizes the positions as "bicubic_plain" does.
FORMATS = (Format("t2t", _rules),)
