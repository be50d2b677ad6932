"""BiT in the files of timm and of Google."""

import re
from collections.abc import Mapping

import numpy as np

from vit_jax.models.bit import BiT
from vit_jax.pretrained import rules
from vit_jax.pretrained.format import Format, State
from vit_jax.pretrained.resnet import block_path
from vit_jax.pretrained.rules import Rule


def _blocks(model: BiT) -> list[tuple[int, int]]:
  return [(i, j) for i, depth in enumerate(model.depths) for j in range(depth)]


def _timm(model: BiT) -> list[Rule]:
  out = rules.conv("stem.conv", "stem_conv", bias=False)
  for i, j in _blocks(model):
    theirs, ours = f"stages.{i}.blocks.{j}", block_path(i, j)
    for k in (1, 2, 3):
      out += rules.norm(f"{theirs}.norm{k}", f"{ours}/norm{k}")
      out += rules.conv(f"{theirs}.conv{k}", f"{ours}/conv{k}", bias=False)
    if j == 0:
      out += rules.conv(f"{theirs}.downsample.conv", f"{ours}/shortcut_conv", bias=False)
  head = Rule(  # a convolution of 1 x 1 pixels [O, I, 1, 1]
    ("head.fc.weight",),
    ("params/head/kernel",),
    lambda x, shapes: (x[0].reshape(shapes[0][::-1]).T,),
    lambda x: (x[0].T[:, :, None, None],),
  )
  return [*out, *rules.norm("norm", "norm"), head, rules.vector("head.fc.bias", "head/bias")]


def _google(model: BiT) -> list[Rule]:
  def conv(theirs: str, ours: str) -> Rule:
    return rules.same(f"{theirs}/standardized_conv2d/kernel", f"{ours}/kernel")

  def norm(theirs: str, ours: str) -> list[Rule]:
    return [
      rules.vector(f"{theirs}group_norm/gamma", f"{ours}/scale"),
      rules.vector(f"{theirs}group_norm/beta", f"{ours}/bias"),
    ]

  out = [conv("root_block", "stem_conv")]
  for i, j in _blocks(model):
    theirs, ours = f"block{i + 1}/unit{j + 1:02d}", block_path(i, j)
    for k, part in enumerate("abc", 1):
      out += norm(f"{theirs}/{part}/", f"{ours}/norm{k}")
      out.append(conv(f"{theirs}/{part}", f"{ours}/conv{k}"))
    if j == 0:
      out.append(conv(f"{theirs}/a/proj", f"{ours}/shortcut_conv"))
  head = Rule(  # a convolution of 1 x 1 pixels [1, 1, I, O]
    ("head/conv2d/kernel",),
    ("params/head/kernel",),
    lambda x, shapes: (x[0].reshape(shapes[0]),),
    lambda x: (x[0][None, None],),
  )
  return [*out, *norm("", "norm"), head, rules.vector("head/conv2d/bias", "head/bias")]


# big_vision's names for the modules of the published files.
_BIG_VISION = (
  (r"root_block/conv_root/", "root_block/standardized_conv2d/"),
  (r"norm-pre-head/", "group_norm/"),
  (r"head/(kernel|bias)$", r"head/conv2d/\1"),
  (r"/conv_proj/", "/a/proj/standardized_conv2d/"),
  *((rf"/conv{k}/", f"/{part}/standardized_conv2d/") for k, part in enumerate("abc", 1)),
  *((rf"/gn{k}/", f"/{part}/group_norm/") for k, part in enumerate("abc", 1)),
  (r"group_norm/scale$", "group_norm/gamma"),
  (r"group_norm/bias$", "group_norm/beta"),
)


def _rename_google(arrays: Mapping[str, np.ndarray]) -> State:
  """Takes away the prefix of the published files and numbers of layers; knows big_vision's names.

  big_vision's norms are [1, 1, 1, C], and its head is a dense layer [I, O].
  """
  out = {}
  for name, x in arrays.items():
    name = re.sub(r"^resnet/", "", name)
    name = re.sub(r"/standardized_conv2d_\d+/", "/standardized_conv2d/", name)
    for pattern, new in _BIG_VISION:
      name = re.sub(pattern, new, name)
    if name.endswith(("/gamma", "/beta")):
      x = x.reshape(-1)
    elif name == "head/conv2d/kernel" and x.ndim == 2:
      x = x[None, None]
    out[name] = x
  return out


FORMATS = (Format("timm", _timm), Format("google", _google, _rename_google))
