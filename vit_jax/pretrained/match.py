"""Which tensors of a file become which arrays of a model, and what stands in the way."""

import dataclasses
import functools
import re
import types
from collections.abc import Iterable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict

from vit_jax.errors import UserError
from vit_jax.pretrained.files import some
from vit_jax.pretrained.format import Format, State
from vit_jax.pretrained.formats import FORMATS
from vit_jax.pretrained.rules import Resize, Rule, Shape

# What code puts before the names of a model that is part of another, or of a training state.
_PREFIXES = (
  *("module.", "_orig_mod.", "model.", "net.", "backbone."),
  *("params/", "img/", "opt/target/", "target/"),
)
_HEAD = re.compile(r"params/head(_dist)?/.*")
# Layers that only mean something together with the head after them.
_BEFORE_HEAD = re.compile(r"pre_logits\b.*")


def unscanned(model: nn.Module) -> nn.Module:
  """Returns the model with a block each, as files have them."""
  return model.clone(scan=False) if getattr(model, "scan", False) else model


@functools.lru_cache(maxsize=4)  # tracing a deep model takes seconds
def shapes(model: nn.Module) -> Mapping[str, Shape]:
  """Returns the shapes of a model's variables by path; nothing is computed."""
  images = jax.ShapeDtypeStruct((1, model.image_size, model.image_size, 3), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), images)
  flat = flatten_dict(variables, sep="/")
  return types.MappingProxyType({path: x.shape for path, x in flat.items()})


def _own_rules(model: nn.Module) -> list[Rule]:
  """Every array by its path; tables are resized as in the class's first format."""
  resizes: dict[tuple[str, ...], Resize] = {}
  for fmt in FORMATS.get(type(model), ())[:1]:
    resizes = {rule.ours: _through(rule) for rule in _rules(fmt, model) or [] if rule.resize}
  return [
    Rule((path,), (path,), lambda x, _: x, lambda x: x, resizes.get((path,)))
    for path in shapes(model)
  ]


def _through(rule: Rule) -> Resize:
  """Returns the rule's resizing for our array instead of theirs."""

  def fit(x: np.ndarray, shape: Shape, method: str) -> np.ndarray:
    theirs = rule.save((np.broadcast_to(np.float32(0), shape),))[0].shape
    return rule.load((rule.resize(rule.save((x,))[0], theirs, method),), [shape])[0]

  return fit


OWN = Format("vit_jax", _own_rules)


def _rules(fmt: Format, model: nn.Module) -> list[Rule] | None:
  try:
    return fmt.rules(model)
  except UserError:
    return None


def _views(arrays: Mapping[str, np.ndarray]) -> Iterator[tuple[str, State, list[str]]]:
  """Yields (prefix, arrays under it without it, names of the others), the whole file first."""
  todo = [("", dict(arrays), [])]
  while todo:
    prefix, state, rest = todo.pop(0)
    yield prefix, state, rest
    if len(prefix) < 40:
      for p in _PREFIXES:
        if any(name.startswith(p) for name in state):
          inner = {n[len(p) :]: x for n, x in state.items() if n.startswith(p)}
          others = [prefix + n for n in state if not n.startswith(p)]
          todo.append((prefix + p, inner, rest + others))


@dataclasses.dataclass
class Match:
  """How a file fits a model.

  Attributes:
    model: without scan.
    format: the one whose names fit best.
    prefix: what its names have in the file before those of the format.
    state: the file's arrays by the format's names.
    rules: of the model, without those of the heads if these are not wanted.
    shapes: ours by path.
    expected: what shape each of their tensors should have.
    missing: their names that the file lacks.
    wrong: their names whose shape is another one, and cannot be resized.
    resized: their names whose shape is another one, and can.
    unused: names that no rule asks for.
  """

  model: nn.Module
  format: Format
  prefix: str
  state: State
  rules: list[Rule]
  shapes: Mapping[str, Shape]
  expected: dict[str, Shape] = dataclasses.field(default_factory=dict)
  missing: list[str] = dataclasses.field(default_factory=list)
  wrong: list[str] = dataclasses.field(default_factory=list)
  resized: list[str] = dataclasses.field(default_factory=list)
  unused: list[str] = dataclasses.field(default_factory=list)

  @property
  def used(self) -> list[str]:
    """Names of the tensors that are loaded."""
    return [name for name in self.expected if name in self.state]

  def rule_of(self, name: str) -> Rule:
    """Returns the rule of one of their tensors."""
    return next(rule for rule in self.rules if name in rule.theirs)

  def head_rules(self) -> list[Rule]:
    """Returns the rules of the heads."""
    return [rule for rule in self.rules if is_head(rule)]


def is_head(rule: Rule) -> bool:
  """Whether the rule is one of a head's."""
  return any(_HEAD.fullmatch(path) for path in rule.ours)


def match(arrays: Mapping[str, np.ndarray], model: nn.Module, head: bool, where: str) -> Match:
  """Returns how a file fits a model; what is missing or wrong is in the result.

  Args:
    arrays: of the file.
    model: with or without scan.
    head: whether the file's head is wanted.
    where: how messages call the file.

  Raises:
    UserError: hardly a name fits.
  """
  model = unscanned(model)
  best, best_score = None, (0, 0)
  for fmt in (OWN, *FORMATS.get(type(model), ())):
    rules = _rules(fmt, model)
    if rules is None:
      continue
    names = {name for rule in rules for name in rule.theirs}
    for prefix, state, rest in _views(arrays):
      state = fmt.rename(state)
      score = (len(names & state.keys()), -len(state.keys() - names))
      if score > best_score:
        best, best_score = Match(model, fmt, prefix, state, rules, {}, unused=rest), score
  if best is None or _is_another_family(best, best_score[0], arrays):
    names = some(arrays, 3) or "no names at all"
    family = guess_family(arrays) or "no family that is known here"
    raise UserError(
      f"{where} looks like a file of {family}: {type(model).__name__} has other names than {names}"
    )
  best.shapes = shapes(model)
  all_names = {name for rule in best.rules for name in rule.theirs}
  best.unused = [best.prefix + n for n in best.state if n not in all_names] + best.unused
  if not head:
    best.unused += [best.prefix + n for r in best.head_rules() for n in r.theirs if n in best.state]
    best.rules = [rule for rule in best.rules if not is_head(rule)]
  _compare(best)
  return best


def _is_another_family(m: Match, found: int, arrays: Mapping[str, np.ndarray]) -> bool:
  """Whether the single differences are not worth telling."""
  names = [name for rule in m.rules for name in rule.theirs]
  theirs, ours = guess_family(arrays), guess_family(names)
  akin = theirs == ours or {theirs, ours} == {"ViT", _DISTILLED}
  return found < len(names) * (0.1 if akin else 1)


def _compare(m: Match) -> None:
  for rule in m.rules:
    empty = tuple(np.broadcast_to(np.float32(0), m.shapes[path]) for path in rule.ours)
    for name, x in zip(rule.theirs, rule.save(empty), strict=True):
      m.expected[name] = x.shape
      if name not in m.state:
        m.missing.append(name)
      elif m.state[name].shape != x.shape:
        same_axes = m.state[name].ndim == x.ndim and m.state[name].shape[-1] == x.shape[-1]
        (m.resized if rule.resize and same_axes else m.wrong).append(name)


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
  from vit_jax.models import catalogue  # noqa: PLC0415

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


_DISTILLED = "DeiT with a distillation token"
# A part of a name that only files of this family have; the first that is found counts.
_SIGNS = {
  "relative_position_bias_table": "Swin",
  "tokens_to_token": "T2T-ViT",
  "blocks_token_only": "CaiT",
  "mlp_tokens": "MLP-Mixer",
  "token_mixing": "MLP-Mixer",
  "tokenizer.conv_layers": "Compact Transformers (ViT-Lite, CVT, CCT)",
  "layer1.0.conv1": "ResNet",
  "block1/unit01": "BiT-ResNet",
  "stages.0.blocks.0.conv1": "BiT-ResNet",
  "dist_token": _DISTILLED,
  "distillation_token": _DISTILLED,
  "Transformer/encoderblock": "ViT",
  "blocks.0.attn.qkv": "ViT",
  "encoder.layer.0.attention": "ViT",
}


def guess_family(names: Iterable[str]) -> str | None:
  """Returns the family of models whose files have such names, None if none is known."""
  joined = "\n".join(names)
  return next((family for sign, family in _SIGNS.items() if sign in joined), None)
