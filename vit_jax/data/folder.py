"""Image folders: DIR/train/<class>/*.jpg, and the layouts of ImageNet and Tiny-ImageNet.

Sets that are only tested on, such as ImageNet-V2, -R, -A, Sketch and ObjectNet, lie in DIR/<class>/
and have the one split "test".
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vit_jax.data import images
from vit_jax.data.sources import Example, Info, Source
from vit_jax.data.stored import Stored
from vit_jax.errors import UserError

SPLITS = ("train", "val", "validation", "test")
_TINY_LABELS = "val_annotations.txt"


@dataclasses.dataclass(frozen=True)
class Layout:
  """The images of a folder, found but not opened."""

  root: Path
  class_names: tuple[str, ...]  # the sorted directories of train/
  splits: dict[str, list[tuple[Path, int]]]  # split -> (file, label), in a fixed mixed order


def _files(directory: Path) -> list[Path]:
  return sorted(p for p in directory.iterdir() if p.suffix.lower() in images.SUFFIXES)


def _annotated(split: Path) -> list[tuple[Path, str]]:
  """Tiny-ImageNet's val/: images/ and a table of file name, class, box."""
  rows = (line.split("\t") for line in (split / _TINY_LABELS).read_text().splitlines())
  return [(split / "images" / row[0], row[1]) for row in rows if len(row) > 1]


def _by_class(split: Path) -> list[tuple[Path, str]]:
  found = []
  for directory in sorted(p for p in split.iterdir() if p.is_dir()):
    inner = directory / "images"  # Tiny-ImageNet's train/<class>/images/
    found += [(p, directory.name) for p in _files(inner if inner.is_dir() else directory)]
  return found


def is_flat(root: Path) -> bool:
  """Whether a directory holds classes and no splits: two directories or more with images."""
  if not root.is_dir() or any((root / split).is_dir() for split in SPLITS):
    return False
  return len(_classes(root)) > 1


def _classes(root: Path) -> list[str]:
  """Returns the names of the directories that have an image, sorted."""

  def has_image(directory: Path) -> bool:
    return any(p.suffix.lower() in images.SUFFIXES for p in directory.iterdir())

  return sorted(p.name for p in root.iterdir() if p.is_dir() and has_image(p))


def _scan_flat(root: Path) -> Layout:
  names = tuple(_classes(root))
  found = [(path, k) for k, name in enumerate(names) for path in _files(root / name)]
  found.sort(key=lambda item: hashlib.sha256(_key(root, item[0])).digest())
  return Layout(root, names, {"test": found})


def scan(root: Path) -> Layout:
  """Lists the labelled images of every split; unlabelled ones (Tiny-ImageNet's test/) are left out.

  Raises:
    UserError: there is no train/<class>/ with images, or another split has a class or a file that
      is not there.
  """
  if is_flat(root):
    return _scan_flat(root)
  train = root / "train"
  if not train.is_dir():
    raise UserError(
      f"image folder {root} has no train/ directory: it must hold "
      "train/<class>/*.jpg and val/ or test/ alike"
    )
  class_names = tuple(sorted(p.name for p in train.iterdir() if p.is_dir()))
  labels = {name: i for i, name in enumerate(class_names)}
  splits = {}
  for name in SPLITS:
    split = root / name
    if not split.is_dir():
      continue
    if (split / _TINY_LABELS).is_file():
      found = _annotated(split)
    else:
      found = _by_class(split)
      if {c for _, c in found} == {"images"} and "images" not in labels:
        continue
    if name != "train" and not found and _files(split):
      raise UserError(
        f"{split} has images without class directories: sort them into {name}/<class>/"
      )
    unknown = sorted({c for _, c in found} - set(labels))
    if unknown:
      raise UserError(f"{split} has the class {unknown[0]!r}, which {train} does not have")
    # Sorted by a hash of the name, so that a slice such as train[:98%] holds all classes.
    found.sort(key=lambda item: hashlib.sha256(_key(root, item[0])).digest())
    splits[name] = [(path, labels[c]) for path, c in found]
  if not splits["train"]:
    raise UserError(
      f"{train} has no images: they must lie in train/<class>/ and end in "
      f"{', '.join(images.SUFFIXES)}"
    )
  return Layout(root, class_names, splits)


def _key(root: Path, path: Path) -> bytes:
  return path.relative_to(root).as_posix().encode()


def read_image(path: Path) -> np.ndarray:
  """Reads a file as uint8 [H, W, 3] RGB.

  Raises:
    UserError: it is missing or corrupt.
  """
  return _stored(path).decode()


def _stored(path: Path) -> Stored:
  remedy = "replace or delete it"
  try:
    return Stored(path.read_bytes(), str(path), remedy)
  except OSError as e:
    raise UserError(f"corrupt image {path} ({e.strerror}): {remedy}") from None


class FolderSource(Source):
  """One split of an image folder, decoded at each access."""

  def __init__(self, layout: Layout, split: str) -> None:
    self._files = layout.splits[split]
    self.info = Info(
      name=layout.root.name,
      split=split,
      size=len(self._files),
      num_classes=len(layout.class_names),
      class_names=layout.class_names,
    )

  def file_names(self, indices: Sequence[int]) -> list[str]:
    return [self._files[int(i)][0].name for i in indices]

  def __getitem__(self, index: int) -> Example:
    path, label = self._files[index]
    return {"image": read_image(path), "label": label}

  def stored(self, indices: Sequence[int]) -> tuple[list[Stored], np.ndarray]:
    found = [self._files[int(i)] for i in indices]
    return [_stored(path) for path, _ in found], np.array([label for _, label in found], np.int32)
