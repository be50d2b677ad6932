"""Which tensors of a file become which arrays of a model."""

import dataclasses
import functools
import re
import types
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict

from vit_jax.errors import UserError
from vit_jax.models import stacking
from vit_jax.pretrained.families import DISTILLED, guess_family
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


def unscanned(model: nn.Module) -> nn.Module:
  """Returns the model with a block each, as files have them."""
  return model.clone(scan=False) if getattr(model, "scan", False) else model


@functools.lru_cache(maxsize=4)  # tracing a deep model takes seconds
def shapes(model: nn.Module) -> Mapping[str, Shape]:
  """Returns the shapes of a model's variables by path; nothing is computed.

  Of blocks that are alike one is traced: the shapes of a model with scan are unstacked.
  """
  model = model.clone(scan=True) if hasattr(model, "scan") else model
  images = jax.ShapeDtypeStruct((1, model.image_size, model.image_size, 3), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), images)
  variables = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), variables)
  flat = flatten_dict(stacking.unstack(variables), sep="/")
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
  known: set[str] = set()
  for fmt in (OWN, *FORMATS.get(type(model), ())):
    rules = _rules(fmt, model)
    if rules is None:
      continue
    names = {name for rule in rules for name in rule.theirs}
    known |= names
    for prefix, state, rest in _views(arrays):
      state = fmt.rename(state)
      score = (len(names & state.keys()), -len(state.keys() - names))
      if score > best_score:
        best, best_score = Match(model, fmt, prefix, state, rules, {}, unused=rest), score
  if best is None or _is_another_family(best, best_score[0]):
    names = some([n for n in arrays if n not in known], 3) or "no names at all"
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


def _is_another_family(m: Match, found: int) -> bool:
  """Whether the single differences are not worth telling."""
  names = [name for rule in m.rules for name in rule.theirs]
  theirs, ours = guess_family(m.state), guess_family(names)
  if theirs == ours or {theirs, ours} == {"ViT", DISTILLED}:
    return found < len(names) * 0.1
  # A CaiT has all the names that a ViT has, and more.
  return theirs is not None or found < len(names)


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
