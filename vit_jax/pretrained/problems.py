"""What keeps a file from being loaded into a model, in one line with the likely cause."""

import math
import os.path
import re
from typing import Any

from vit_jax.models import catalogue
from vit_jax.pretrained.match import Match, is_head
from vit_jax.pretrained.rules import Shape

# The tensor that most layers have, and the name of the layer with the separator.
_WEIGHT = re.compile(r"(.*[./])(weight|kernel|scale|gamma)")
# Layers that only mean something together with the head after them.
_BEFORE_HEAD = re.compile(r"pre_logits\b.*")


def refusal(m: Match, head: bool) -> str | None:
  """Returns why unused tensors of the file mean that the model is another one, None if not."""
  known = {re.sub(r"\d+", "#", name) for name in m.expected}
  layers = {w[1]: name for name in m.expected if (w := _WEIGHT.fullmatch(name))}
  for full in m.unused:
    name = full.removeprefix(m.prefix)
    for pattern, reason in m.format.refused.items():
      if re.fullmatch(pattern, name):
        return f"{full} is in the file: {reason}"
    if re.sub(r"\d+", "#", name) in known:
      return f"{full} is in the file and has no place in the model: another depth{nearest(m)}"
    beside = layers.get(re.sub(r"[^./]*$", "", name))
    if beside:
      return (
        f"{full} is in the file beside {m.prefix}{beside}: a layer that ours is not, with a bias, "
        "running statistics or quantised weights"
      )
    if head and _BEFORE_HEAD.fullmatch(name):
      return f'{full} comes before the file\'s head: use pre_logits=True, or head="fresh"'
  return None


_ABSENT = {
  r"params/cls": 'the file has no class token: use pool="gap" or pool="map"',
  r"params/dist": "the file's model is not distilled: use distilled=False",
  r"params/pos_embedding": 'its positions may be computed: use posemb="sincos2d"',
  r"params/map_pool/.*": 'the file has no pooling by attention: use pool="tok" or pool="gap"',
  r"params/pre_logits/.*": "use pre_logits=False",
  r"params/head_dist/.*": 'the file has one head only: use distilled=False, or head="fresh"',
  r"params/head/.*": 'the file has no head: use head="fresh" or head="drop"',
}


def problem(m: Match, head: bool) -> str | None:
  """Returns what keeps the file from being loaded, in one line, None if nothing does."""
  if m.wrong and all(is_head(m.rule_of(name)) for name in m.wrong):
    name = m.wrong[0]
    theirs, ours = _classes(m, name)
    if theirs != ours:
      return (
        f"{m.prefix}{name} has {theirs} classes ({text(m.state[name].shape)}), the model {ours} "
        f"({text(m.expected[name])}): use num_classes={theirs}, "
        'or head="fresh" for a head of its own'
      )
  reason = refusal(m, head)
  if reason is not None:
    return reason
  if m.wrong:
    name = m.wrong[0]
    more = f" (and {len(m.wrong) - 1} more)" if len(m.wrong) > 1 else ""
    return (
      f"{m.prefix}{name} has shape {text(m.state[name].shape)}, the model needs "
      f"{text(m.expected[name])}{more}: {_cause(m, name)}"
    )
  if m.missing:
    name = m.missing[0]
    more = f" and {len(m.missing) - 1} more" if len(m.missing) > 1 else ""
    paths = m.rule_of(name).ours
    hint = next(
      (advice for p, advice in _ABSENT.items() if any(re.fullmatch(p, path) for path in paths)),
      f"another variant{nearest(m)}, or a file that is not whole",
    )
    return f"{m.prefix}{name}{more} is not in the file: {hint}"
  return None


def text(shape: Shape) -> str:
  """Returns a shape as "3x224x224"."""
  return "x".join(map(str, shape)) or "()"


def _classes(m: Match, name: str) -> tuple[int, int]:
  """Returns the numbers of classes that a tensor of the head says: (theirs, ours)."""
  theirs, ours = m.state[name].shape, m.expected[name]
  axis = len(ours) - 1 if name.endswith("kernel") else 0
  others = [a == b for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) if i != axis]
  return (theirs[axis], ours[axis]) if len(theirs) == len(ours) and all(others) else (0, 0)


def _cause(m: Match, name: str) -> str:
  theirs, ours = m.state[name].shape, m.expected[name]
  if len(theirs) == len(ours) == 4 and _pixels(name, theirs) != _pixels(name, ours):
    return f"another patch or kernel size{nearest(m)}"
  if m.rule_of(name).resize is not None:
    return f"another width or number of heads{nearest(m)}"
  if len(theirs) != len(ours):
    return "another kind of layer under the same name"
  if any("/token_mlp/" in path for path in m.rule_of(name).ours):
    return "another image size; an MLP over the tokens fits one number of patches"
  return f"another width, number of heads or hidden width{nearest(m)}"


def _pixels(name: str, shape: Shape) -> Shape:
  """Returns height and width of a convolution's kernel: [O, I, H, W], or else [H, W, I, O]."""
  return shape[2:] if name.endswith("weight") else shape[:2]


def _blocks(m: Match, stack: str) -> int:
  """Returns how many blocks of a stack the file has, 0 if its names do not tell."""
  of_block = re.compile(rf"params/{stack}/(first|(?:rest/)?block_\d+)/.*")
  names: dict[str, str] = {}
  for rule in m.rules:
    if rule.ours and (block := of_block.fullmatch(rule.ours[0])):
      names.setdefault(block[1], rule.theirs[0])
  if len(names) < 2:
    return 0
  # What the first tensors of two blocks have in common is not their number.
  pair = list(names.values())[:2]
  start = os.path.commonprefix(pair)
  end = os.path.commonprefix([name[::-1] for name in pair])[::-1]
  number = re.compile(rf"{re.escape(start)}\d+{re.escape(end)}")
  return sum(number.fullmatch(name) is not None for name in m.state)


# Vectors as wide as a token, or as the channels of the stem; the first that is there counts.
_WIDTHS = ("embedding/bias", "stem_norm/scale", "stage_0/first/norm1/scale", "encoder_norm/scale")
_KERNELS = {"embedding/kernel": "patch_size", "tokenizer/conv_0/kernel": "conv_kernel"}


def _measure(m: Match) -> dict[str, Any]:
  """Returns the fields of the file's model that its names and shapes tell."""
  found = {
    rule.ours[0].removeprefix("params/"): rule.theirs[0]
    for rule in m.rules
    if rule.ours and rule.theirs[0] in m.state
  }
  shapes = {path: m.state[name].shape for path, name in found.items()}
  out: dict[str, Any] = {}
  if width := next((math.prod(shapes[path]) for path in _WIDTHS if path in shapes), 0):
    out["width"] = width
  if hasattr(m.model, "depths"):
    out["depths"] = tuple(_blocks(m, f"stage_{i}") for i in range(len(m.model.depths)))
  else:
    out["depth"] = _blocks(m, "encoder")
  for path, field in _KERNELS.items():
    if len(shapes.get(path, ())) == 4:
      out[field] = _pixels(found[path], shapes[path])[0]
  if "conv_kernel" in out:
    out["tokenizer"] = "conv"
  if table := shapes.get("stage_0/block_0/bias_table"):
    out["window"] = (math.isqrt(table[0]) + 1) // 2
  return out


def nearest(m: Match) -> str:
  """Returns "; the file looks like NAME" for the listed variant of the file's measures, or ""."""
  measures = _measure(m)
  if "width" not in measures or all(getattr(m.model, k) == v for k, v in measures.items()):
    return ""  # then something else is wrong
  for name in catalogue.names():
    variant = catalogue.find(name)
    fields = {key: variant.fields.get(key, getattr(variant.module, key, None)) for key in measures}
    if variant.module is type(m.model) and fields == measures:
      return f"; the file looks like {name}"
  return ""
