"""Residual networks with batch normalisation in the files of torchvision and timm."""

from collections.abc import Mapping

import numpy as np

from vit_jax.models.resnet import ResNet
from vit_jax.pretrained import rules
from vit_jax.pretrained.format import Format, State
from vit_jax.pretrained.rules import Rule


def block_path(stage: int, block: int) -> str:
  """Returns the path of a block of a staged model without `scan`."""
  return f"stage_{stage}/first" if block == 0 else f"stage_{stage}/rest/block_{block - 1}"


def _torchvision(model: ResNet) -> list[Rule]:
  out = rules.conv("conv1", "stem_conv", bias=False) + rules.batch_norm("bn1", "stem_norm")
  for i, depth in enumerate(model.depths):
    for j in range(depth):
      theirs, ours = f"layer{i + 1}.{j}", block_path(i, j)
      for k in (1, 2, 3):
        out += rules.conv(f"{theirs}.conv{k}", f"{ours}/conv{k}", bias=False)
        out += rules.batch_norm(f"{theirs}.bn{k}", f"{ours}/norm{k}")
      if j == 0:
        out += rules.conv(f"{theirs}.downsample.0", f"{ours}/shortcut_conv", bias=False)
        out += rules.batch_norm(f"{theirs}.downsample.1", f"{ours}/shortcut_norm")
  return [*out, *rules.linear("fc", "head")]


def _rename(arrays: Mapping[str, np.ndarray]) -> State:
  return {name: x for name, x in arrays.items() if not name.endswith(".num_batches_tracked")}


_NOT_OURS = {
  r"conv1\.\d\..*": "its stem has three convolutions, as ResNet-C's and D's, ours has one",
  r".*\.(se|attn)\..*": "its blocks have channel attention",
}

FORMATS = (Format("torchvision", _torchvision, _rename, refused=_NOT_OURS),)
