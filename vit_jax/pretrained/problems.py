"""What keeps a file from being loaded into a model, in one line with the likely cause."""

import re

from vit_jax.models import catalogue
from vit_jax.pretrained.match import Match, is_head
from vit_jax.pretrained.rules import Shape

# Layers that only mean something together with the head after them.
_BEFORE_HEAD = re.compile(r"pre_logits\b.*")


def refusal(m: Match, head: bool) -> str | None:
  """Returns why unused tensors of the file mean that the model is another one, None if not."""
  known = {re.sub(r"\d+", "#", name) for name in m.expected}
  for full in m.unused:
    name = full.removeprefix(m.prefix)
    for pattern, reason in m.format.refused.items():
      if re.fullmatch(pattern, name):
        return f"{full} is in the file: {reason}"
    if re.sub(r"\d+", "#", name) in known:
      return f"{full} is in the file and has no place in the model: another depth{nearest(m)}"
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
  differing = [(a, b) for a, b in zip(theirs, ours, strict=False) if a != b]
  return differing[0] if len(differing) == 1 and len(theirs) == len(ours) else (0, 0)


def _cause(m: Match, name: str) -> str:
  theirs, ours = m.state[name].shape, m.expected[name]
  if len(theirs) == len(ours) == 4 and (theirs[:2] == ours[:2] or theirs[2:] == ours[2:]):
    return f"another patch or kernel size{nearest(m)}"
  if m.rule_of(name).resize is not None:
    return f"another width or number of heads{nearest(m)}"
  if len(theirs) != len(ours):
    return "another kind of layer under the same name"
  if any("/token_mlp/" in path for path in m.rule_of(name).ours):
    return "another image size; an MLP over the tokens fits one number of patches"
  return f"another width, number of heads or hidden width{nearest(m)}"


def _measure(m: Match) -> dict[str, int]:
  """Returns the width, depth and patch size of the file's model as far as its names tell."""
  out = {}
  norms = [r for r in m.rules if r.ours and r.ours[0].endswith("norm/scale")]
  sizes = [m.state[n].size for r in norms for n in r.theirs if n in m.state]
  if sizes:
    out["width"] = sizes[-1]
  blocks = [r.theirs[0] for r in m.rules if any("encoder/block_0/" in p for p in r.ours)]
  if blocks:
    start, sep, end = blocks[0].partition("0")
    found = [re.fullmatch(f"{re.escape(start)}(\\d+){re.escape(end)}", n) for n in m.state]
    out["depth"] = 1 + max((int(f[1]) for f in found if f), default=-1) if sep else 0
  for rule in m.rules:
    if rule.ours == ("params/embedding/kernel",) and rule.theirs[0] in m.state:
      shape = m.state[rule.theirs[0]].shape
      if len(shape) == 4:
        out["patch_size"] = shape[2] if rule.theirs[0].endswith("weight") else shape[0]
  return out


def nearest(m: Match) -> str:
  """Returns "; the file looks like NAME" for the listed variant of the same measures, or ""."""
  measures = _measure(m)
  if not {"width", "depth"} <= measures.keys():
    return ""
  fitting = []
  for name in catalogue.names():
    variant = catalogue.find(name)
    fields = {**variant.fields}
    if variant.module is type(m.model) and all(fields.get(k) == v for k, v in measures.items()):
      fitting.append(name)
  return f"; the file looks like {fitting[0]}" if fitting else ""
