"""The MLP-Mixer in the files of timm and of Google."""

import re
from collections.abc import Mapping

import numpy as np

from vit_jax.models.mixer import Mixer
from vit_jax.pretrained import rules
from vit_jax.pretrained.format import Format, State
from vit_jax.pretrained.rules import Rule


def _timm(model: Mixer) -> list[Rule]:
  out = rules.conv("stem.proj", "embedding")
  for i in range(model.depth):
    theirs, ours = f"blocks.{i}", f"encoder/block_{i}"
    out += rules.norm(f"{theirs}.norm1", f"{ours}/norm1")
    out += rules.mlp(f"{theirs}.mlp_tokens", f"{ours}/token_mlp")
    out += rules.norm(f"{theirs}.norm2", f"{ours}/norm2")
    out += rules.mlp(f"{theirs}.mlp_channels", f"{ours}/mlp")
  return [*out, *rules.norm("norm", "encoder_norm"), *rules.linear("head", "head")]


def _google(model: Mixer) -> list[Rule]:
  def pair(theirs: str, ours: str, *parts: str) -> list[Rule]:
    return [rules.same(f"{theirs}/{part}", f"{ours}/{part}") for part in parts]

  dense, norm = ("kernel", "bias"), ("scale", "bias")
  out = pair("stem", "embedding", *dense)
  for i in range(model.depth):
    theirs, ours = f"MixerBlock_{i}", f"encoder/block_{i}"
    for j in range(2):
      out += pair(f"{theirs}/LayerNorm_{j}", f"{ours}/norm{j + 1}", *norm)
      layer = ("up", "down")[j]
      out += pair(f"{theirs}/token_mixing/Dense_{j}", f"{ours}/token_mlp/{layer}", *dense)
      out += pair(f"{theirs}/channel_mixing/Dense_{j}", f"{ours}/mlp/{layer}", *dense)
  return [
    *out,
    *pair("pre_head_layer_norm", "encoder_norm", *norm),
    *pair("head", "head", *dense),
  ]


def _rename_google(arrays: Mapping[str, np.ndarray]) -> State:
  """Turns the tree of the paper's own code into that of big_vision and vision_transformer.

  There, blocks are `Mixer/encoderblock_i` with `token_mixing_phase_0/{kernel1,bias1,kernel2,
  bias2}`, perhaps with axes of size 1, and the norms may be counted together with other modules.
  """
  if not any(name.startswith("Mixer/") for name in arrays):
    return dict(arrays)
  out, norms = {}, {}
  for name, x in arrays.items():
    new = re.sub(r"^Mixer/encoder_norm/", "pre_head_layer_norm/", name)
    new = re.sub(r"^embedding/", "stem/", new)
    new = re.sub(r"^Mixer/encoderblock_(\d+)/", r"MixerBlock_\1/", new)
    phase = re.fullmatch(r"(.*/)(token|channel)_mixing_phase_0/(kernel|bias)([12])", new)
    if phase:
      new = f"{phase[1]}{phase[2]}_mixing/Dense_{int(phase[4]) - 1}/{phase[3]}"
      x = np.squeeze(x)
    norm = re.fullmatch(r"(MixerBlock_\d+)/LayerNorm_(\d+)/.*", new)
    if norm:
      norms.setdefault(norm[1], set()).add(int(norm[2]))
    out[new] = x
  for block, found in norms.items():
    for j, number in enumerate(sorted(found)):
      for part in ("scale", "bias"):
        key = f"{block}/LayerNorm_{number}/{part}"
        if key in out:
          out[f"{block}/LayerNorm_{j}/{part}"] = out.pop(key)
  return out


FORMATS = (
  Format("timm", _timm),
  Format("google", _google, _rename_google, gelu="tanh"),
)
