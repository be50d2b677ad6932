"""Some of the examples of a source."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from vit_jax.data.sources import Example, Source
from vit_jax.data.stored import Images
from vit_jax.errors import UserError


class Subset(Source):
  """The examples of a source at given indices, in their order."""

  def __init__(self, source: Source, indices: np.ndarray) -> None:
    self._source = source
    self._indices = np.asarray(indices, np.int64)
    self.info = dataclasses.replace(source.info, size=len(self._indices))

  def __getitem__(self, index: int) -> Example:
    return self._source[int(self._indices[range(len(self))[index]])]

  def read(self, indices: Sequence[int]) -> tuple[np.ndarray | list[np.ndarray], np.ndarray]:
    """Returns (images, labels int32 [n]); images of equal shape may come as one array."""
    return self._source.read(self._indices[np.asarray(indices)])

  def stored(self, indices: Sequence[int]) -> tuple[Images, np.ndarray]:
    return self._source.stored(self._indices[np.asarray(indices)])


def draw(source: Source, examples: int | None, seed: int = 0) -> Source:
  """Returns `examples` examples of a source, drawn without replacement, in the source's order.

  Data sets are often sorted by class, so that the first ones would be no fair sample.

  Args:
    source: the examples.
    examples: how many; None for all of them, the source itself.
    seed: of the draw.

  Raises:
    UserError: there are not so many.
  """
  if examples is None or examples == len(source):
    return source
  if not 1 <= examples <= len(source):
    raise UserError(
      f"{examples} examples of {source.info.name} ({source.info.split}) are asked for: it has "
      f"{len(source)}, so give 1 to {len(source)}"
    )
  chosen = np.random.default_rng(seed).choice(len(source), examples, replace=False)
  return Subset(source, np.sort(chosen))
