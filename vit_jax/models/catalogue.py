"""From a paper's name to a model."""

import difflib
import re
from typing import Any

from flax import linen as nn

from vit_jax.errors import UserError
from vit_jax.models import bit, cait, compact, deit, mixer, resnet, swin, t2t, vit
from vit_jax.models import fields as fields_lib
from vit_jax.models.family import Variant

# A family has its own file; one line here makes its variants known.
FAMILIES = (
  vit.FAMILY,
  mixer.FAMILY,
  t2t.FAMILY,
  deit.FAMILY,
  cait.FAMILY,
  swin.FAMILY,
  compact.FAMILY,
  resnet.FAMILY,
  bit.FAMILY,
)

# Fields that leave the function alone, or that act in training only.
NOT_SHAPE = (
  "attention_dropout",
  "drop_path",
  "dropout",
  "dtype",
  "head_bias_init",
  "head_zeroinit",
  "layer_scale",
  "remat",
  "scan",
  "token_dropout",
  "weight_init",
)


def names() -> list[str]:
  """Returns the names worth listing; families know further ones, such as any patch size."""
  return [name for family in FAMILIES for name in family.names]


# How timm and the papers' own projects write names, and what ours would be.
_SPELLINGS = (
  (r"\..*", ""),  # a tag: .augreg_in21k
  (r"_(32|224|240|256|288|320|336|384|448|512)(_.*)?$", ""),  # the resolution, and what is after it
  (r"^resnetv2_(.*)_bit\w*", r"BiT-R\1"),
  (r"^vit_", "ViT-"),
  (r"_patch4_window7$", ""),
  (r"_patch4_window", "-w"),
  (r"(_distilled)?_patch(\d+)", r"/\2\1"),
  *((f"(?i){size}", short) for size, short in (("tiny", "Ti"), ("small", "S"), ("base", "B"))),
  *((f"(?i){size}", short) for size, short in (("large", "L"), ("huge", "H"), ("gigantic", "G"))),
  (r"(?i)giant", "g"),
)


def _near(name: str) -> list[str]:
  """Returns known names like this one, with its own patch size if it has one."""
  for theirs, ours in _SPELLINGS:
    name = re.sub(theirs, ours, name)
  known = names()
  patch = re.search(r"/[1-9]\d*$", name)
  if patch:
    known += [re.sub(r"/\d+$", patch[0], k) for k in known]
  if name in known:
    return [name]
  # Case matters (ViT-s and ViT-S are two models), so a name in a wrong case may fit several.
  alike: dict[str, list[str]] = {}
  for k in dict.fromkeys(known):
    alike.setdefault(_letters(k), []).append(k)
  letters = _letters(name)
  return alike.get(letters) or [
    k for near in difflib.get_close_matches(letters, alike) for k in alike[near]
  ]


def _letters(name: str) -> str:
  """Returns what is left of a name without its case and its punctuation."""
  return re.sub(r"[\W_]", "", name).lower()


def _unknown(name: str) -> UserError:
  near = _near(name)
  hint = (
    f"did you mean {' or '.join(near)} (case matters)?"
    if near
    else "`python -m vit_jax.models` lists the names"
  )
  return UserError(f"unknown model '{name}': {hint}")


def find(name: str) -> Variant:
  """Returns the variant of a name.

  Raises:
    UserError: no family knows the name; the nearest one is named.
  """
  for family in FAMILIES:
    variant = family.lookup(name)
    if variant is not None:
      return variant
  raise _unknown(name)


def config_keys() -> dict[str, type]:
  """Returns the fields that a config can set, of all families together, with their types."""
  out: dict[str, type] = {}
  for module in {find(name).module: None for name in names()}:
    for key, annotation in fields_lib.annotations(module).items():
      kind = fields_lib.config_type(annotation)
      if kind is None or key in ("num_classes", "image_size"):
        continue
      if out.setdefault(key, kind) is not kind:
        raise TypeError(f"field {key} of {module.__name__} is {kind}, elsewhere {out[key]}")
  return out


def create(name: str, *, num_classes: int, image_size: int, **overrides: Any) -> nn.Module:
  """Returns a Linen module by its name.

  Args:
    name: a paper's name, e.g. "ViT-B/16"; see `names()`.
    num_classes: number of logits.
    image_size: height and width of the images, in pixels.
    **overrides: fields of the module class that replace the variant's, e.g. `pool="map"`.

  Raises:
    UserError: an unknown name or field (the nearest is named), a field of a wrong type or out of
      range, or fields that contradict each other.
  """
  variant = find(name)
  given = fields_lib.check(
    variant.module, overrides | {"num_classes": num_classes, "image_size": image_size}
  )
  module = variant.module(**{**variant.fields, **given})
  module.check()
  return module
