"""ViT and DeiT in the files of timm, of Google's two projects, and of transformers."""

import functools
import math
import re
from collections.abc import Mapping

import numpy as np

from vit_jax.errors import UserError
from vit_jax.models.positions import sincos2d
from vit_jax.models.vit import ViT
from vit_jax.pretrained import resize
from vit_jax.pretrained.format import Format, State
from vit_jax.pretrained.rules import (
  Rule,
  Shape,
  attention,
  conv,
  linear,
  mlp,
  norm,
  packed,
  same,
)


def _is_square(n: int) -> bool:
  return n > 0 and math.isqrt(n) ** 2 == n


def _positions(table: np.ndarray, shape: Shape, method: str, prefix: int) -> np.ndarray:
  """Resizes a table, also one without the entries of the tokens before the patches."""
  rows = table.shape[-2] if table.ndim >= 2 else 0
  if prefix and not _is_square(rows - prefix) and _is_square(rows):
    # big_vision and DeiT III add positions to the patches alone: for the tokens that is zero.
    table = np.pad(table.reshape(1, rows, -1), ((0, 0), (prefix, 0), (0, 0)))
  elif not _is_square(rows - prefix):
    theirs = next((k for k in (1, 2) if _is_square(rows - k)), None)
    if theirs is not None:
      fields = ('pool="tok", cls_position=True', "distilled=True")[theirs - 1]
      raise UserError(
        f"the table has entries of {theirs} token{'s' * (theirs > 1)} before the patches, the "
        f"model has {prefix}: is the file's model one with {fields}?"
      )
  return resize.positions(table, shape, method, prefix=prefix)


def _prefix(model: ViT) -> int:
  return 1 + model.distilled if model.pool == "tok" and model.cls_position else 0


def _fixed_positions(name: str, model: ViT) -> Rule:
  """The table that the model computes: there is nothing to load, but it must be that one."""
  side = model.image_size // model.patch_size
  table = np.pad(sincos2d(side, side, model.width), ((0, 0), (_prefix(model), 0), (0, 0)))

  def check(x: tuple[np.ndarray, ...], _: object) -> tuple[()]:
    if not np.allclose(x[0], table, atol=1e-4):
      raise UserError(f'{name} is not the fixed table of posemb="sincos2d": use posemb="learn"')
    return ()

  return Rule((name,), (), check, lambda _: (table,), lambda *_: table)


def _tokens(model: ViT, names: Mapping[str, str]) -> list[Rule]:
  """Class token, distillation token and positions; `names` gives theirs."""
  tokens = ("cls", "dist")[: 1 + model.distilled] if model.pool == "tok" else ()
  rules = [same(names[token], token) for token in tokens]
  if model.posemb == "learn":
    fit = functools.partial(_positions, prefix=_prefix(model))
    return [*rules, same(names["positions"], "pos_embedding", fit)]
  return rules


def _no_body(model: ViT) -> None:
  """Raises UserError for a ViT that only its owner knows."""
  if model.body is not None:
    raise UserError("a ViT with a body of its own has the names of no other project")


def _timm(model: ViT) -> list[Rule]:
  _no_body(model)
  names = {"cls": "cls_token", "dist": "dist_token", "positions": "pos_embed"}
  rules = _tokens(model, names)
  if model.posemb == "sincos2d":
    rules.append(_fixed_positions("pos_embed", model))
  rules += conv("patch_embed.proj", "embedding")
  for i in range(model.depth):
    theirs, ours = f"blocks.{i}", f"encoder/block_{i}"
    rules += norm(f"{theirs}.norm1", f"{ours}/norm1")
    rules += attention(f"{theirs}.attn", f"{ours}/attention")
    rules += norm(f"{theirs}.norm2", f"{ours}/norm2")
    rules += mlp(f"{theirs}.mlp", f"{ours}/mlp")
  rules += norm("norm", "encoder_norm")
  if model.pool == "map":
    rules.append(same("attn_pool.latent", "map_pool/probe"))
    rules += linear("attn_pool.q", "map_pool/attention/query")
    rules += packed("attn_pool.kv", [f"map_pool/attention/{x}" for x in ("key", "value")])
    rules += linear("attn_pool.proj", "map_pool/attention/out", axes=2)
    rules += norm("attn_pool.norm", "map_pool/norm") + mlp("attn_pool.mlp", "map_pool/mlp")
  if model.pre_logits:
    rules += linear("pre_logits.fc", "pre_logits")  # timm's name until 0.6; it has none since
  rules += linear("head", "head")
  return rules + linear("head_dist", "head_dist") if model.distilled else rules


def _transformers(model: ViT) -> list[Rule]:
  _no_body(model)
  if model.pool == "map":
    raise UserError('transformers has no ViT with pool="map"')
  start = "embeddings"
  rules = _tokens(
    model,
    {
      "cls": f"{start}.cls_token",
      "dist": f"{start}.distillation_token",
      "positions": f"{start}.position_embeddings",
    },
  )
  if model.posemb == "sincos2d":
    rules.append(_fixed_positions(f"{start}.position_embeddings", model))
  rules += conv(f"{start}.patch_embeddings.projection", "embedding")
  for i in range(model.depth):
    theirs, ours = f"encoder.layer.{i}", f"encoder/block_{i}"
    rules += norm(f"{theirs}.layernorm_before", f"{ours}/norm1")
    for x in ("query", "key", "value"):
      rules += linear(f"{theirs}.attention.attention.{x}", f"{ours}/attention/{x}")
    rules += linear(f"{theirs}.attention.output.dense", f"{ours}/attention/out", axes=2)
    rules += norm(f"{theirs}.layernorm_after", f"{ours}/norm2")
    rules += linear(f"{theirs}.intermediate.dense", f"{ours}/mlp/up")
    rules += linear(f"{theirs}.output.dense", f"{ours}/mlp/down")
  rules += norm("layernorm", "encoder_norm")
  if model.pre_logits:
    rules += linear("pooler.dense", "pre_logits")
  if model.distilled:
    return rules + linear("cls_classifier", "head") + linear("distillation_classifier", "head_dist")
  return rules + linear("classifier", "head")


def _transformers_names(arrays: Mapping[str, np.ndarray]) -> State:
  return {re.sub(r"^(vit|deit)\.", "", name): x for name, x in arrays.items()}


def _google_pairs(model: ViT) -> list[tuple[str, str]]:
  """(their module, ours) where the arrays are the same."""
  pairs = [("embedding", "embedding"), ("Transformer/encoder_norm", "encoder_norm")]
  attention_parts = ("query", "key", "value", "out")
  inner = [("LayerNorm_0", "norm1"), ("LayerNorm_1", "norm2")]
  shared = [(f"MultiHeadDotProductAttention_0/{x}", f"attention/{x}") for x in attention_parts]
  shared += [("MlpBlock_0/Dense_0", "mlp/up"), ("MlpBlock_0/Dense_1", "mlp/down")]
  for i in range(model.depth):
    theirs, ours = f"Transformer/encoderblock_{i}", f"encoder/block_{i}"
    pairs += [(f"{theirs}/{a}", f"{ours}/{b}") for a, b in inner + shared]
  if model.pool == "map":
    pool = [("LayerNorm_0", "norm"), *shared]
    pairs += [(f"MAPHead_0/{a}", f"map_pool/{b}") for a, b in pool]
  if model.pre_logits:
    pairs.append(("pre_logits", "pre_logits"))
  heads = ("head", "head_dist") if model.distilled else ("head",)
  return pairs + [(name, name) for name in heads]


def _google(model: ViT) -> list[Rule]:
  _no_body(model)
  rules = _tokens(model, {"cls": "cls", "dist": "dist", "positions": "pos_embedding"})
  if model.pool == "map":
    rules.append(same("MAPHead_0/probe", "map_pool/probe"))
  for theirs, ours in _google_pairs(model):
    is_norm = "norm" in ours.rsplit("/", 1)[-1]
    leaves = ("scale", "bias") if is_norm else ("kernel", "bias")
    rules += [same(f"{theirs}/{leaf}", f"{ours}/{leaf}") for leaf in leaves]
  return rules


# One counter for all submodules in vision_transformer's files, one for each class in later code.
_NUMBERS = {
  "LayerNorm_2": "LayerNorm_1",
  "MultiHeadDotProductAttention_1": "MultiHeadDotProductAttention_0",
  "MlpBlock_3": "MlpBlock_0",
}


def _google_names(arrays: Mapping[str, np.ndarray]) -> State:
  out = {}
  for name, x in arrays.items():
    parts = [_NUMBERS.get(part, part) for part in name.split("/")]
    if parts[-2:] == ["posembed_input", "pos_embedding"]:
      out["pos_embedding"] = x
    elif parts[:2] == ["Transformer", "encoderblock"] and x.ndim:  # stacked by scan=True
      rest = "/".join(parts[2:])
      out |= {f"Transformer/encoderblock_{i}/{rest}": x[i] for i in range(len(x))}
    else:
      out["/".join(parts)] = x
  return out


_NOT_OURS = {
  r"fc_norm\..*": "it averages the tokens before its last norm, ours normalises first: another "
  "function",
  r"blocks\.\d+\.(ls[12]\.gamma|gamma_[12])": "its branches have LayerScale, as those of DeiT III",
  r"norm_pre\..*": "it normalises before the first block, as CLIP's models",
  r"reg_token": "it has register tokens",
  r"blocks\.\d+\.attn\.[qk]_norm\..*": "it normalises queries and keys",
  r"blocks\.\d+\.(attn\.norm|mlp\.norm)\..*": "it has norms inside its branches",
}

FORMATS = (
  Format("timm", _timm, refused=_NOT_OURS),
  Format("google", _google, _google_names, gelu="tanh"),
  Format("transformers", _transformers, _transformers_names),
)
