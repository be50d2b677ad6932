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


def _near(name: str) -> list[str]:
  """Returns known names like this one, with its own patch size if it has one."""
  known = names()
  patch = re.search(r"/[1-9]\d*$", name)
  if patch:
    known += [re.sub(r"/\d+$", patch[0], k) for k in known]
  known = list(dict.fromkeys(known))
  # Case matters (ViT-s and ViT-S are two models), so a name in a wrong case may fit several.
  same = [k for k in known if k.lower() == name.lower()]
  return (
    same or difflib.get_close_matches(name, known) or difflib.get_close_matches(name.upper(), known)
  )


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
