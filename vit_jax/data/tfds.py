"""TFDS sets prepared as ArrayRecord, read without TensorFlow."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from vit_jax.data.sources import Example, Info, Source
from vit_jax.data.stored import Stored
from vit_jax.errors import UserError

INFO_FILE = "dataset_info.json"


@cache
def library() -> ModuleType:
  """Imports tensorflow_datasets, when it is needed: half a second."""
  import tensorflow_datasets  # noqa: PLC0415

  return tensorflow_datasets


def _version(path: Path) -> tuple[int, ...]:
  return tuple(int(x) for x in path.name.split("."))


def _versions(directory: Path) -> list[Path]:
  """The prepared versions `directory/1.2.3`, the newest last."""
  found = [
    p.parent
    for p in directory.glob(f"*/{INFO_FILE}")
    if all(x.isdigit() for x in p.parent.name.split("."))
  ]
  return sorted(found, key=_version)


def prepared(directory: Path) -> dict[str, list[str]]:
  """Returns name -> versions of the sets prepared in a directory."""
  if not directory.is_dir():
    return {}
  # A set lies in NAME/1.2.3 or NAME/CONFIG/1.2.3; hidden directories are unfinished.
  paths = [*directory.glob("[!.]*"), *directory.glob("[!.]*/[!.]*")]
  return {
    str(path.relative_to(directory)): [v.name for v in found]
    for path in sorted(paths)
    if path.is_dir() and (found := _versions(path))
  }


def metadata(directory: Path) -> dict[str, Any]:
  """Reads dataset_info.json of a prepared set."""
  try:
    return json.loads((directory / INFO_FILE).read_text())
  except (OSError, json.JSONDecodeError) as e:
    raise UserError(
      f"{directory / INFO_FILE} cannot be read ({e}): prepare the set again"
    ) from None


def file_format(directory: Path) -> str:
  """Returns "array_record", "tfrecord", …; sets of old TFDS versions do not say theirs."""
  return metadata(directory).get("fileFormat") or "tfrecord"


def find(name: str, data_dir: Path) -> Path | None:
  """Returns the directory of a prepared set, of its newest version where none is named.

  Raises:
    UserError: it is there, but as TFRecord.
  """
  base, _, version = name.partition(":")
  found = [v for v in _versions(data_dir / base) if not version or v.name == version]
  if not found:
    return None
  readable = [v for v in found if file_format(v) == "array_record"]
  if not readable:
    raise UserError(
      f"data set {name} in {data_dir} was prepared as {file_format(found[-1])}, "
      "which only TensorFlow reads: convert it once with: python -m vit_jax.data "
      f"convert {name} --data-dir {data_dir} --out OTHER_DIRECTORY"
    )
  return readable[-1]


def splits(directory: Path) -> list[str]:
  """Returns the names of the splits of a prepared set."""
  return [s["name"] for s in metadata(directory)["splits"]]


class TfdsSource(Source):
  """One split of a prepared set that has the features `image` and `label`."""

  def __init__(self, name: str, directory: Path, split: str) -> None:
    """Opens the record files.

    Args:
      name: how errors and measurements call the set.
      directory: with the version, DATA_DIR/NAME/1.2.3.
      split: without a slice.

    Raises:
      UserError: the set has no images with integer labels, or files are missing.
    """
    tfds = library()
    try:
      builder = tfds.builder_from_directory(directory)
      features = builder.info.features
      names = set(features)
      if not {"image", "label"} <= names or not isinstance(
        features["label"], tfds.features.ClassLabel
      ):
        raise UserError(
          f"data set {name} has the features {', '.join(sorted(names))}: an image "
          "classifier needs 'image' and a class 'label'"
        )
      image, label = features["image"], features["label"]
      if image.np_dtype != np.uint8 or image.shape[-1] not in (1, 3):
        raise UserError(
          f"data set {name} has images of {image.np_dtype} {image.shape}: only uint8 "
          "with 1 or 3 channels can be read"
        )
      # Images are decoded here (`Stored`), so that grey and CMYK files get 3 channels;
      # other features (file names, boxes) would only cost time.
      skip = {key: tfds.decode.SkipDecoding() for key in names - {"label"}}
      self._data = builder.as_data_source(split=split, decoders=skip)
      size = len(self._data)
    except (OSError, ValueError, RuntimeError) as e:
      if isinstance(e, UserError):
        raise
      raise UserError(
        f"data set {name} in {directory} cannot be opened ({one_line(e)}): prepare it again"
      ) from e
    self._directory = directory
    self._channels = image.shape[-1]
    self._has_names = "file_name" in names
    self.info = Info(
      name=name.split(":")[0],
      split=split,
      num_classes=label.num_classes,
      size=size,
      class_names=tuple(label.names),
      encoding=image.encoding_format,
    )

  def file_names(self, indices: Sequence[int]) -> list[str]:
    if not self._has_names:
      return super().file_names(indices)
    return [r["file_name"].decode() for r in self._records(indices)]

  def __getitem__(self, index: int) -> Example:
    decoded, labels = self.read([range(len(self))[index]])
    return {"image": decoded[0], "label": int(labels[0])}

  def _records(self, indices: Sequence[int]) -> list[dict[str, Any]]:
    try:
      return self._data.__getitems__([int(i) for i in indices])
    except Exception as e:  # array_record raises what it likes
      raise UserError(
        f"{self.info.name} ({self.info.split}) in {self._directory} cannot be read "
        f"({one_line(e)}): prepare the set again"
      ) from e

  def read(self, indices: Sequence[int]) -> tuple[list[np.ndarray], np.ndarray]:
    found, labels = self.stored(indices)
    return [image.decode() for image in found], labels

  def stored(self, indices: Sequence[int]) -> tuple[list[Stored], np.ndarray]:
    records = self._records(indices)
    place = f"of {self.info.name} ({self.info.split}) in {self._directory}"
    found = [
      Stored(r["image"], f"{i} {place}", "prepare the set again", self._channels)
      for i, r in zip(indices, records, strict=True)
    ]
    return found, np.array([r["label"] for r in records], np.int32)


def one_line(error: Exception) -> str:
  """Returns an error's message without its line breaks."""
  return " ".join(str(error).split())[:200] or type(error).__name__
