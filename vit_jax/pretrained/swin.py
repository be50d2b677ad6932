"""Swin Transformers in the files of timm, Microsoft (and timm before 0.8), and transformers."""

import re
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from vit_jax.models.swin import Swin
from vit_jax.pretrained import resize
from vit_jax.pretrained.format import Format, State
from vit_jax.pretrained.rules import Rule, attention, conv, linear, matrix, mlp, norm, same

# Buffers that older versions save: what follows from the fields is no parameter.
_BUFFERS = ("relative_position_index", "attn_mask")


def _parameters(theirs: Mapping[str, np.ndarray]) -> State:
  """Returns the arrays without buffers, and without the prefix that transformers has."""
  return {
    re.sub(r"^swin\.", "", name): x
    for name, x in theirs.items()
    if name.rpartition(".")[2] not in _BUFFERS
  }


def _bias_table(theirs: str, ours: str) -> Rule:
  return same(
    f"{theirs}.relative_position_bias_table", f"{ours}/bias_table", resize=resize.bias_table
  )


def _block(theirs: str, ours: str) -> list[Rule]:
  return [
    *norm(f"{theirs}.norm1", f"{ours}/norm1"),
    _bias_table(f"{theirs}.attn", ours),
    *attention(f"{theirs}.attn", f"{ours}/attention"),
    *norm(f"{theirs}.norm2", f"{ours}/norm2"),
    *mlp(f"{theirs}.mlp", f"{ours}/mlp"),
  ]


def _transformers_block(theirs: str, ours: str) -> list[Rule]:
  rules = norm(f"{theirs}.layernorm_before", f"{ours}/norm1")
  rules.append(_bias_table(f"{theirs}.attention.self", ours))
  for x in ("query", "key", "value"):
    rules += linear(f"{theirs}.attention.self.{x}", f"{ours}/attention/{x}")
  return [
    *rules,
    *linear(f"{theirs}.attention.output.dense", f"{ours}/attention/out", axes=2),
    *norm(f"{theirs}.layernorm_after", f"{ours}/norm2"),
    *linear(f"{theirs}.intermediate.dense", f"{ours}/mlp/up"),
    *linear(f"{theirs}.output.dense", f"{ours}/mlp/down"),
  ]


def _stages(
  model: Swin, layers: str, merging_after: bool, block: Callable[[str, str], list[Rule]]
) -> list[Rule]:
  """Returns rules for the stages.

  Args:
    model: without `scan`.
    layers: name of the list of stages.
    merging_after: whether patch merging belongs to the stage before it, not to the next one.
    block: rules for a block by its names.
  """
  rules = []
  for i, depth in enumerate(model.depths):
    if i:
      merging = f"{layers}.{i - merging_after}.downsample"
      rules += norm(f"{merging}.norm", f"merging_{i}/norm")
      rules.append(matrix(f"{merging}.reduction.weight", f"merging_{i}/reduction/kernel"))
    for j in range(depth):
      rules += block(f"{layers}.{i}.blocks.{j}", f"stage_{i}/block_{j}")
  return rules


def _timm(model: Swin, merging_after: bool, head: str) -> list[Rule]:
  return [
    *conv("patch_embed.proj", "embedding"),
    *norm("patch_embed.norm", "embedding_norm"),
    *_stages(model, "layers", merging_after, _block),
    *norm("norm", "encoder_norm"),
    *linear(head, "head"),
  ]


def _transformers(model: Swin) -> list[Rule]:
  return [
    *conv("embeddings.patch_embeddings.projection", "embedding"),
    *norm("embeddings.norm", "embedding_norm"),
    *_stages(model, "encoder.layers", True, _transformers_block),
    *norm("layernorm", "encoder_norm"),
    *linear("classifier", "head"),
  ]


FORMATS = (
  Format("timm", partial(_timm, merging_after=False, head="head.fc"), _parameters),
  Format("Microsoft", partial(_timm, merging_after=True, head="head"), _parameters),
  Format("transformers", _transformers, _parameters),
)
