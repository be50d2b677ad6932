"""Names of Swin Transformers (timm; Microsoft and timm before 0.8)."""

from collections.abc import Mapping
from functools import partial

import numpy as np

from vit_jax.models.swin import Swin
from vit_jax.pretrained import resize
from vit_jax.pretrained.format import Format, State
from vit_jax.pretrained.rules import Rule, attention, conv, linear, matrix, mlp, norm, same

# Buffers that older versions save: what follows from the fields is no parameter.
_BUFFERS = ("relative_position_index", "attn_mask")


def _without_buffers(theirs: Mapping[str, np.ndarray]) -> State:
  return {name: x for name, x in theirs.items() if name.rpartition(".")[2] not in _BUFFERS}


def _block(theirs: str, ours: str) -> list[Rule]:
  return [
    *norm(f"{theirs}.norm1", f"{ours}/norm1"),
    same(
      f"{theirs}.attn.relative_position_bias_table",
      f"{ours}/bias_table",
      resize=resize.bias_table,
    ),
    *attention(f"{theirs}.attn", f"{ours}/attention"),
    *norm(f"{theirs}.norm2", f"{ours}/norm2"),
    *mlp(f"{theirs}.mlp", f"{ours}/mlp"),
  ]


def _rules(model: Swin, merging_after: bool, head: str) -> list[Rule]:
  """Returns a rule for every tensor.

  Args:
    model: without `scan`.
    merging_after: whether patch merging has the number of the stage before it, not behind it.
    head: name of the classifier.
  """
  rules = [*conv("patch_embed.proj", "embedding"), *norm("patch_embed.norm", "embedding_norm")]
  for i, depth in enumerate(model.depths):
    if i:
      merging = f"layers.{i - merging_after}.downsample"
      rules += norm(f"{merging}.norm", f"merging_{i}/norm")
      rules.append(matrix(f"{merging}.reduction.weight", f"merging_{i}/reduction/kernel"))
    for j in range(depth):
      rules += _block(f"layers.{i}.blocks.{j}", f"stage_{i}/block_{j}")
  return [*rules, *norm("norm", "encoder_norm"), *linear(head, "head")]


FORMATS = (
  Format("timm", partial(_rules, merging_after=False, head="head.fc"), _without_buffers),
  Format("Microsoft", partial(_rules, merging_after=True, head="head"), _without_buffers),
)
