"""What a family of models tells the catalogue about itself."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn


@dataclasses.dataclass(frozen=True)
class Variant:
  """A named model, before its number of classes and its image size are known.

  Attributes:
    name: as in the paper, e.g. "ViT-B/16".
    module: the Linen class; it has the fields `num_classes` and `image_size`, and a method
      `check()` that raises UserError for fields that contradict each other.
    fields: those of the class's fields in which the variant differs from its defaults.
    source: the paper that gives this shape.
    image_size: the resolution that its published figures are for, in pixels.
    num_classes: those of the published figures.
  """

  name: str
  module: type[nn.Module]
  fields: Mapping[str, Any]
  source: str
  image_size: int = 224
  num_classes: int = 1000


@dataclasses.dataclass(frozen=True)
class Family:
  """Variants of one architecture.

  Attributes:
    names: those worth listing.
    lookup: from a name to its variant, None if the name is of another family; it may know more
      names than are listed.
  """

  names: tuple[str, ...]
  lookup: Callable[[str], Variant | None]
