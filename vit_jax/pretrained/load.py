"""Weights of a file into the variables of a model."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from vit_jax.errors import UserError
from vit_jax.models import catalogue, stacking
from vit_jax.models import fields as fields_lib
from vit_jax.pretrained import files, resize, rules
from vit_jax.pretrained.files import Contents, some
from vit_jax.pretrained.match import OWN, Match, match
from vit_jax.pretrained.problems import problem, text

Variables = dict[str, Any]
Head = Literal["keep", "fresh", "drop"]
HEADS = ("keep", "fresh", "drop")

# Resolutions of published files, for a model that is given by its name alone.
_SIZES = (224, 384, 256, 448, 512, 336, 288, 32, 64, 128, 160, 192, 240, 320, 480)


def load(
  path: str | PathLike,
  model: nn.Module | str,
  image_size: int | None = None,
  *,
  head: Head = "keep",
  interpolation: str = "bicubic",
  key: jax.Array | None = None,
  log: Callable[[str], None] = print,
) -> Variables:
  """Returns the variables of a model with the weights of a file.

  Every array comes from the file: what is missing there is an error, except for a head that is not
  wanted. Tables of positions are resized to the resolution of the model. What happened to each
  tensor is reported line by line.

  Args:
    path: .npz of Google's projects, .safetensors of timm, transformers or this one, PyTorch's
      .pth or .bin; which it is, and whose names it has, is found out.
    model: a module, or a model's name; then the number of classes is the file's if its head is
      kept, and without `image_size` the resolution is the file's.
    image_size: in pixels; that of the variables instead of the model's.
    head: "keep" the file's; "fresh" from the model's own initialiser; "drop": none in the
      result, for a caller that brings its own (a model without its head cannot be applied).
    interpolation: for tables of another resolution; one of resize.METHODS.
    key: of random numbers for a fresh head.
    log: takes the lines of the report.

  Returns:
    {"params": ...} and, for models that have them, {"batch_stats": ...}: nested dicts of float32
    NumPy arrays, stacked as `model.scan` wants them.

  Raises:
    UserError: the file cannot be read or does not fit the model: names tensor, shapes and the
      likely cause; or a tensor that is not finite.
  """
  _check_options(head, interpolation, key)
  contents = files.read(path)
  if isinstance(model, str):
    model = create_for(contents, model, image_size, head, str(path))
  elif image_size is not None and image_size != model.image_size:
    model = model.clone(**fields_lib.check(type(model), {"image_size": image_size}))
    model.check()
  return load_contents(
    contents, model, str(path), head=head, interpolation=interpolation, key=key, log=log
  )


def load_contents(
  contents: Contents,
  model: nn.Module,
  where: str,
  *,
  head: Head = "keep",
  interpolation: str = "bicubic",
  key: jax.Array | None = None,
  log: Callable[[str], None] = print,
) -> Variables:
  """Does what `load` does with a file that is read already; `where` is what messages call it."""
  _check_options(head, interpolation, key)
  found = match(contents.arrays, model, head == "keep", where)
  trouble = problem(found, head == "keep")
  if trouble is not None:
    raise UserError(f"{where}: {trouble}")
  state = _fit(found, interpolation, where)
  flat = rules.load(found.rules, state, found.shapes)
  flat = {p: np.ascontiguousarray(x, np.float32) for p, x in flat.items()}
  fresh = _fresh_head(model, key, found) if head == "fresh" else {}
  for line in report(contents, found, interpolation, list(fresh), where):
    log(line)
  variables = unflatten_dict(flat | fresh, sep="/")
  return _stacked_as(model, variables) if getattr(model, "scan", False) else variables


def _check_options(head: Head, interpolation: str, key: jax.Array | None) -> None:
  if head not in HEADS:
    raise UserError(f"head must be one of {', '.join(HEADS)}, got {head!r}")
  if head == "fresh" and key is None:
    raise UserError('head="fresh" draws random numbers: give key=jax.random.key(seed)')
  resize.check_method(interpolation)


def create_for(
  contents: Contents, name: str, image_size: int | None, head: Head, where: str, **overrides: Any
) -> nn.Module:
  """Returns the model of this name with the classes and the resolution of a file.

  Args:
    contents: the file.
    name: of the model.
    image_size: in pixels, None for the file's.
    head: if "keep" the number of classes is the file's, else that of the published model.
    where: how messages call the file.
    **overrides: fields of the model; `num_classes` among them is kept.

  Raises:
    UserError: as `models.create`, or hardly a name fits.
  """
  variant = catalogue.find(name)
  fields = {"num_classes": variant.num_classes, **overrides}
  size = variant.image_size if image_size is None else image_size
  model = catalogue.create(name, image_size=size, **fields)
  found = match(contents.arrays, model, True, where)
  if head == "keep" and "num_classes" not in overrides:
    biases = [r.theirs[0] for r in found.head_rules() if r.ours == ("params/head/bias",)]
    if biases and biases[0] in found.state:
      fields["num_classes"] = int(found.state[biases[0]].size)
  # Tables of relative positions depend on the window instead.
  tables = [n for n in found.resized if found.rule_of(n).ours == ("params/pos_embedding",)]
  if image_size is None and tables:
    size = _own_size(contents, name, fields, found, tables[0], where) or size
  return catalogue.create(name, image_size=size, **fields)


def _own_size(
  contents: Contents, name: str, fields: Mapping[str, Any], found: Match, table: str, where: str
) -> int | None:
  """Returns the resolution at which the file's table of positions fits as it is."""
  patch = getattr(found.model, "patch_size", 0)
  side = math.isqrt(math.prod(found.state[table].shape[:-1]))
  for size in (*((patch * side,) if patch else ()), *_SIZES):
    try:
      model = catalogue.create(name, image_size=size, **fields)
    except UserError:  # no multiple of the patch size
      continue
    if size != found.model.image_size and not match(contents.arrays, model, True, where).resized:
      return size
  return None


def _fit(m: Match, method: str, where: str) -> dict[str, np.ndarray]:
  """Returns the file's arrays in the expected shapes, all float32 and finite."""
  out = {}
  for name in m.used:
    x = m.state[name]
    if x.dtype.kind not in "fiu":
      raise UserError(f"{where}: {m.prefix}{name} has {x.dtype} entries and not numbers")
    x = np.asarray(x, np.float32)
    if not np.isfinite(x).all():
      raise UserError(f"{where}: {m.prefix}{name} has entries that are not finite: a broken run?")
    if name in m.resized:
      try:
        x = m.rule_of(name).resize(x, m.expected[name], method)
      except UserError as e:
        raise UserError(f"{where}: {m.prefix}{name} {x.shape}: {e}") from e
    out[name] = x
  return out


def _fresh_head(model: nn.Module, key: jax.Array, m: Match) -> dict[str, np.ndarray]:
  """Returns the initial arrays of the heads by path."""
  loaded = {path for rule in m.rules for path in rule.ours}
  paths = [path for path in m.shapes if path not in loaded]
  images = jnp.zeros((1, model.image_size, model.image_size, 3))

  def init(key: jax.Array) -> dict[str, jax.Array]:
    variables = flatten_dict(model.init(key, images), sep="/")
    return {path: variables[path] for path in paths}

  # Compiled, so that whatever else the initialisation draws is left out.
  return {path: np.asarray(x) for path, x in jax.jit(init)(key).items()}


def _stacked_as(model: nn.Module, variables: Variables) -> Variables:
  """Returns the variables with stacked blocks wherever the model scans over them."""
  images = jax.ShapeDtypeStruct((1, model.image_size, model.image_size, 3), jnp.float32)
  target = jax.eval_shape(model.init, jax.random.key(0), images)

  def arrange(tree: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(tree)
    if stacking.STACKED in like and stacking.STACKED not in tree:
      out = stacking.stack(tree)
    return {
      k: arrange(v, like[k]) if isinstance(v, Mapping) and k in like else v for k, v in out.items()
    }

  return arrange(variables, target)


def published_gelu(contents: Contents, m: Match) -> str | None:
  """Returns the GELU that the file's model was trained with, None if the file leaves it open."""
  try:
    fields = json.loads(contents.metadata.get("fields", "{}"))
  except ValueError:
    fields = {}
  known = None if m.format is OWN else m.format.gelu
  return fields.get("gelu", known) if isinstance(fields, dict) else known


def report(
  contents: Contents, m: Match, method: str, fresh: Sequence[str], where: str
) -> list[str]:
  """Returns the lines that say what happened to each tensor."""
  parameters = sum(m.state[name].size for name in m.used)
  around = [
    *([f"inside '{contents.wrapper}'"] if contents.wrapper else []),
    *([f"without the prefix '{m.prefix}'"] if m.prefix else []),
  ]
  lines = [
    f"loaded {len(m.used)} tensors ({parameters:,} numbers) from {where}, "
    f"{m.format.name} names{''.join(', ' + part for part in around)}"
  ]
  for name in m.resized:
    old, new = text(m.state[name].shape), text(m.expected[name])
    lines.append(f"resized {m.prefix}{name}: {old} to {new}, {method}")
  if fresh:
    lines.append(f"fresh: {some(fresh)}")
  if m.unused:
    lines.append(f"not used, in the file: {some(m.unused)}")
  if contents.left_out:
    lines.append(f"left out, no tensors of the model: {some(contents.left_out)}")
  ours, theirs = getattr(m.model, "gelu", None), published_gelu(contents, m)
  if None not in (ours, theirs) and ours != theirs:
    lines.append(
      f'warning: the model of the file was trained with gelu="{theirs}", this one has '
      f'gelu="{ours}": use gelu="{theirs}" for the same logits'
    )
  return lines
