"""What is planned: shapes of a ViT, each with the ways to train it."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Sequence

from scaling.errors import DataError


@dataclasses.dataclass(frozen=True, order=True)
class Shape:
  """A shape of a ViT; the fields are those of the model."""

  depth: int
  width: int
  num_heads: int
  mlp_dim: int
  patch_size: int = 14

  @property
  def attention(self) -> str:
    """Width and heads as the paper writes them: "1664//16"."""
    return f"{self.width}//{self.num_heads}"

  @property
  def published(self) -> str | None:
    """Returns the name of a published shape: "g" or "G"."""
    return PUBLISHED.get((self.depth, self.width, self.num_heads, self.mlp_dim))

  def __str__(self) -> str:
    """Returns the shape as in tables: 48 x 1664//16 x 8192, patch 14."""
    return f"{self.depth} x {self.attention} x {self.mlp_dim}, patch {self.patch_size}"


@dataclasses.dataclass(frozen=True, order=True)
class Setting:
  """How a shape is trained.

  Attributes:
    topology: "v3:2x2" for TPUs that need not be here; "cpu" or "gpu" for those that are; or a
      device of `vit_jax.devices`, "H200" or "H200:8", to estimate for.
    batch: images per device and step.
    optimizer: a name of `savings.SAVINGS`.
    remat: "none", "dots" or "full", see the model's field.
    fsdp: devices that share parameters and optimiser state; 1: every one has all.
    zero1: devices that share the optimiser state alone.
  """

  topology: str
  batch: int
  optimizer: str
  remat: str
  fsdp: int = 1
  zero1: int = 1

  @property
  def sharding(self) -> str:
    """Returns "replicated", "fsdp 8" or "zero1 8"."""
    if self.fsdp != 1:
      return f"fsdp {self.fsdp}"
    return f"zero1 {self.zero1}" if self.zero1 != 1 else "replicated"


@dataclasses.dataclass(frozen=True, order=True)
class Cell:
  """One shape in one setting."""

  shape: Shape
  setting: Setting

  def to_json(self) -> dict[str, int | str]:
    """Returns the fields of both, flat."""
    return {**dataclasses.asdict(self.shape), **dataclasses.asdict(self.setting)}

  @classmethod
  def of_json(cls, fields: dict[str, int | str]) -> Cell:
    """Undoes `to_json`."""
    return cls(*(_part(kind, fields) for kind in (Shape, Setting)))

  def at_depth(self, depth: int) -> Cell:
    """Returns the same at another depth."""
    return dataclasses.replace(self, shape=dataclasses.replace(self.shape, depth=depth))

  def at_batch(self, batch: int) -> Cell:
    """Returns the same with another batch per device."""
    return dataclasses.replace(self, setting=dataclasses.replace(self.setting, batch=batch))


def _part(kind: type, fields: dict[str, int | str]) -> Shape | Setting:
  return kind(**{field.name: fields[field.name] for field in dataclasses.fields(kind)})


@dataclasses.dataclass(frozen=True)
class Grid:
  """The axes of a grid of shapes; attention is width and heads."""

  depth: Sequence[int]
  attention: Sequence[tuple[int, int]]
  mlp: Sequence[int]
  patch: Sequence[int] = (14,)

  def shapes(self) -> list[Shape]:
    """Returns all shapes, depth after depth."""
    return [
      Shape(depth, width, heads, mlp, patch)
      for patch, depth, (width, heads), mlp in itertools.product(
        self.patch, self.depth, self.attention, self.mlp
      )
    ]


# "Scaling Vision Transformers" (2106.04560), figure 8: the heads of each width.
_PAPER_HEADS = {
  1024: (16, 8),
  1280: (20, 16, 10),
  1408: (22, 16, 11),
  1536: (24, 16, 12),
  1664: (26, 16, 13),
  1792: (28, 16, 14),
  1920: (30, 24, 16, 15),
  2048: (32, 16),
}
_PAPER = Grid(
  depth=(24, 32, 40, 48, 56),
  attention=tuple((width, heads) for width, many in _PAPER_HEADS.items() for heads in many),
  mlp=tuple(range(4096, 10241, 512)),
)
# Shapes of that paper's table 2, by depth, width, heads and MLP width.
PUBLISHED = {(40, 1408, 16, 6144): "g", (48, 1664, 16, 8192): "G"}
GRIDS = {
  "paper": _PAPER,
  # Twelve shapes that have ViT-g and ViT-G among them.
  "small": Grid(depth=(40, 48), attention=((1408, 16), (1664, 16)), mlp=(4096, 6144, 8192)),
}


def attention_pairs(width: str, heads: Sequence[int]) -> list[tuple[int, int]]:
  """Reads widths such as "1408//16,1664": those without heads get each of `heads` that divides.

  Raises:
    DataError: no number, heads that do not divide the width, or none.
  """
  pairs = []
  for text in width.split(","):
    match = re.fullmatch(r"([1-9]\d*)(?://([1-9]\d*))?", text.strip())
    if match is None:
      raise DataError(f"--width {text}: write widths, or width//heads as 1664//16, with commas")
    size = int(match[1])
    many = [int(match[2])] if match[2] else list(heads)
    fitting = [h for h in many if size % h == 0]
    if not fitting:
      what = f"{size}//{match[2]}" if match[2] else f"{size} with --heads {many or 'none'}"
      raise DataError(f"--width {what}: the heads must divide the width; write width//heads")
    pairs += [(size, h) for h in fitting]
  return pairs


def settings(
  topologies: Sequence[str],
  batches: Sequence[int],
  optimizers: Sequence[str],
  remats: Sequence[str],
  fsdp: Sequence[int],
  zero1: Sequence[int],
) -> list[Setting]:
  """Returns all combinations; of fsdp and zero1 at most one is above 1."""
  return [
    Setting(topology, batch, optimizer, remat, f, z)
    for topology, batch, remat, f, z, optimizer in itertools.product(
      topologies, batches, remats, fsdp, zero1, optimizers
    )
    if f == 1 or z == 1
  ]
