"""Data sets by name: random access to uint8 images and integer labels."""

import abc
import dataclasses
import difflib
import functools
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.data import calls
from vit_jax.data.stored import Images, Stored, decoded
from vit_jax.errors import UserError

Example = dict[str, Any]  # {"image": uint8 [H, W, C], "label": int}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Info:
  """What a source is."""

  name: str
  split: str
  num_classes: int
  size: int  # examples
  class_names: tuple[str, ...]
  encoding: str | None = None  # of the stored images, where it is known: "jpeg", "png"
  irreducible_error: float | None = None  # least possible error rate, where it is known


class Source(abc.ABC):
  """Random access to the examples of one split; safe to read from several threads."""

  info: Info

  def __len__(self) -> int:
    return self.info.size

  @abc.abstractmethod
  def __getitem__(self, index: int) -> Example:
    """Returns {"image": uint8 [H, W, C], "label": int}."""

  def read(self, indices: Sequence[int]) -> tuple[np.ndarray | list[np.ndarray], np.ndarray]:
    """Returns (images, labels int32 [n]); images of equal shape may come as one array."""
    examples = [self[int(i)] for i in indices]
    return [e["image"] for e in examples], np.array([e["label"] for e in examples], np.int32)

  def stored(self, indices: Sequence[int]) -> tuple[Images, np.ndarray]:
    """Returns as `read`, but images may be `Stored`, decoded as far as a transform needs them."""
    return self.read(indices)

  def file_names(self, indices: Sequence[int]) -> list[str]:
    """Returns the names of the files that the images came from.

    Raises:
      UserError: the data set does not tell.
    """
    del indices
    raise UserError(f"data set {self.info.name} does not tell the file names of its images")

  def irreducible_error(self, start: int, stop: int) -> float | None:
    """Returns the least possible error rate on the examples start..stop, where it is known."""
    del start, stop
    return None


class ArraySource(Source):
  """Examples held in memory."""

  def __init__(self, info: Info, images: np.ndarray | list[np.ndarray], labels: np.ndarray) -> None:
    self.info = info
    self._images = images
    self._labels = labels

  def __getitem__(self, index: int) -> Example:
    return {"image": self._images[index], "label": int(self._labels[index])}

  def read(self, indices: Sequence[int]) -> tuple[np.ndarray | list[np.ndarray], np.ndarray]:
    if isinstance(self._images, np.ndarray):
      return self._images[indices], self._labels[indices]
    return [self._images[int(i)] for i in indices], self._labels[indices]


class _Parts(Source):
  """Ranges of other sources, one after the other."""

  def __init__(self, info: Info, parts: Iterable[tuple[Source, int, int]]) -> None:
    self._parts = list(parts)
    self._ends = np.cumsum([stop - start for _, start, stop in self._parts])
    self.info = dataclasses.replace(info, size=int(self._ends[-1]))

  def __getitem__(self, index: int) -> Example:
    images, labels = self.read([range(len(self))[index]])
    return {"image": images[0], "label": int(labels[0])}

  def file_names(self, indices: Sequence[int]) -> list[str]:
    out = []
    for index in np.asarray(indices):
      k = int(np.searchsorted(self._ends, index, side="right"))
      source, _, stop = self._parts[k]
      out += source.file_names([index - self._ends[k] + stop])
    return out

  def read(self, indices: Sequence[int]) -> tuple[np.ndarray | list[np.ndarray], np.ndarray]:
    images, labels = self.stored(indices)
    return decoded(images), labels

  def stored(self, indices: Sequence[int]) -> tuple[Images, np.ndarray]:
    indices = np.asarray(indices)
    part = np.searchsorted(self._ends, indices, side="right")
    images: list[np.ndarray | Stored] = [np.empty(0)] * len(indices)
    labels = np.empty(len(indices), np.int32)
    for k in np.unique(part):
      source, _, stop = self._parts[k]
      at = np.flatnonzero(part == k)
      found, labels[at] = source.stored(indices[at] - self._ends[k] + stop)
      if len(at) == len(indices):
        return found, labels
      for i, image in zip(at, found, strict=True):
        images[i] = image
    return images, labels


def data_directory(data_dir: str | os.PathLike[str] | None = None) -> Path:
  """Returns where prepared sets lie: the argument, else TFDS_DATA_DIR, else TFDS's own place."""
  chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
  return Path(chosen).expanduser()


def load(name: str, split: str, data_dir: str | os.PathLike[str] | None = None) -> Source:
  """Opens one split of a data set.

  Args:
    name: "synthetic" or "synthetic(label_noise=0.1, …)"; a prepared TFDS set, "cifar10" or
      "cifar10:3.0.2"; or an image folder (a path, or a name inside `data_dir`).
    split: "train", "train[:98%]", "train[1000:]", or several joined by "+".
    data_dir: where prepared sets lie; see `data_directory`.

  Raises:
    UserError: there is no such data set, directory or split, or it cannot be read.
  """
  if re.match(r"\s*synthetic\b", name):
    from vit_jax.data import synthetic  # noqa: PLC0415  (each source brings its own imports)

    parsed = calls.parse(name, "data set")
    if len(parsed) != 1:
      raise UserError(f"data set {name!r} must be one call: synthetic(option=value)")
    spec = calls.apply(synthetic.Spec, parsed[0], "data set")
    return _open(name, split, synthetic.SPLITS, functools.partial(synthetic.open_split, spec, name))

  directory = data_directory(data_dir)
  from vit_jax.data import folder as folder_lib  # noqa: PLC0415

  for folder in (Path(name).expanduser(), directory / name):
    if (folder / "train").is_dir() or folder_lib.is_flat(folder):
      layout = folder_lib.scan(folder)
      return _open(
        name, split, list(layout.splits), functools.partial(folder_lib.FolderSource, layout)
      )

  from vit_jax.data import tfds  # noqa: PLC0415

  found = tfds.find(name, directory)
  if found is None:
    raise _unknown(name, directory)
  return _open(name, split, tfds.splits(found), functools.partial(tfds.TfdsSource, name, found))


def _unknown(name: str, directory: Path) -> UserError:
  from vit_jax.data import tfds  # noqa: PLC0415

  if os.sep in name:
    path = Path(name).expanduser()
    state = "has no train/ directory" if path.is_dir() else "is not there"
    return UserError(
      f"image folder {name} {state}: it must hold train/<class>/*.jpg and val/ or test/ alike, or "
      "<class>/*.jpg to be tested on"
    )
  base = name.split(":")[0]
  prepare = f"prepare it with: python -m vit_jax.data prepare {base} --out {directory}"
  if not directory.is_dir():
    return UserError(
      f"data directory {directory} is not there, so there is no data set {name!r}: "
      f"set TFDS_DATA_DIR or --config.data.dir, or {prepare}"
    )
  prepared = tfds.prepared(directory)
  if base in prepared:
    versions = ", ".join(prepared[base])
    return UserError(f"data set {name!r}: {directory} has {base} in version {versions} only")
  near = difflib.get_close_matches(base, ["synthetic", *prepared], n=1)
  hint = f"did you mean {near[0]}? Else " if near else ""
  names = ", ".join(sorted(prepared)) or "nothing"
  return UserError(f"unknown data set {name!r}: {hint}{prepare} (in {directory} there is: {names})")


_SPLIT = re.compile(r"(?P<name>\w+)(\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")


def _bound(text: str | None, default: int, size: int) -> int:
  """Turns "98%", "1000", "-1000" or nothing into an index; per cents are rounded."""
  if text is None:
    return default
  value = round(int(text[:-1]) * size / 100) if text.endswith("%") else int(text)
  return min(max(value + size if value < 0 else value, 0), size)


def _open(
  name: str, split: str, splits: Sequence[str], open_split: Callable[[str], Source]
) -> Source:
  parts = []
  for text in split.split("+"):
    match = _SPLIT.fullmatch(text.strip())
    if match is None:
      raise UserError(
        f"split {split!r} of {name} cannot be read: write train, train[:98%] or "
        "train[1000:], joined by +"
      )
    if match["name"] not in splits:
      raise UserError(f"data set {name} has no split {match['name']!r}: it has {', '.join(splits)}")
    source = open_split(match["name"])
    start = _bound(match["start"], 0, len(source))
    stop = _bound(match["stop"], len(source), len(source))
    if stop <= start:
      raise UserError(
        f"split {text.strip()!r} of {name} is empty: {match['name']} has {len(source)} examples"
      )
    parts.append((source, start, stop))
  (first, start, stop), *others = parts
  info = dataclasses.replace(first.info, split=split)
  if not others and (start, stop) == (0, len(first)):
    first.info = info
    return first
  sizes = [b - a for _, a, b in parts]
  errors = [s.irreducible_error(a, b) for s, a, b in parts]
  known = None if None in errors else float(np.average(errors, weights=sizes))
  info = dataclasses.replace(info, irreducible_error=known)
  return _Parts(info, parts)
