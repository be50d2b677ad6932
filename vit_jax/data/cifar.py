"""CIFAR-10 and CIFAR-100 from their binary archives (the others are Python pickles).

Format: https://www.cs.toronto.edu/~kriz/cifar.html. A record is one byte for each label, coarse
before fine, and 32 x 32 bytes for each of red, green and blue.
"""

import dataclasses
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vit_jax.errors import UserError

_PIXELS = 3 * 32 * 32


@dataclasses.dataclass(frozen=True)
class Archive:
  """A published archive."""

  url: str
  sha256: str
  files: dict[str, tuple[str, ...]]  # split -> members
  labels: dict[str, str]  # label, in the order of its byte -> member with its class names
  sizes: dict[str, int]  # split -> images


ARCHIVES = {
  "cifar10": Archive(
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    files={"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)},
    labels={"label": "batches.meta.txt"},
    sizes={"train": 50_000, "test": 10_000},
  ),
  "cifar100": Archive(
    url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    files={"train": ("train.bin",), "test": ("test.bin",)},
    labels={"coarse_label": "coarse_label_names.txt", "label": "fine_label_names.txt"},
    sizes={"train": 50_000, "test": 10_000},
  ),
}
VERSION = "3.0.2"  # TFDS's, whose keys, features and so order of examples these are


@dataclasses.dataclass(frozen=True)
class Content:
  """An archive's labels and bytes."""

  class_names: dict[str, list[str]]  # label -> names
  records: dict[str, np.ndarray]  # split -> uint8 [n, labels + 3072]

  def examples(self, split: str) -> Iterator[tuple[np.ndarray, dict[str, int]]]:
    """Yields (uint8 [32, 32, 3], label -> class) in the order of the archive."""
    count = len(self.class_names)
    for record in self.records[split]:
      labels = dict(zip(self.class_names, record[:count].tolist(), strict=True))
      yield record[count:].reshape(3, 32, 32).transpose(1, 2, 0), labels


def read(path: Path, name: str) -> Content:
  """Reads an archive into memory, 180 MB.

  Raises:
    UserError: it is no archive, incomplete, or the pickled version.
  """
  archive = ARCHIVES[name]
  wanted = {*archive.labels.values(), *(f for files in archive.files.values() for f in files)}
  found, names = {}, []
  try:
    with tarfile.open(path, "r:*") as tar:
      for member in tar:
        base = member.name.rsplit("/", 1)[-1]
        names.append(base)
        if base in wanted and (stream := tar.extractfile(member)):
          found[base] = stream.read()
  except (tarfile.TarError, OSError, EOFError, zlib.error) as e:
    reason = str(e).split("\n")[0].rstrip(":")
    raise UserError(
      f"{path} cannot be read as an archive ({reason}): download {archive.url} again"
    ) from None
  if {"batches.meta", "meta"} & set(names):
    raise UserError(
      f"{path} is the Python version of {name}, whose pickles could run any code: use {archive.url}"
    )
  if missing := sorted(wanted - set(found)):
    raise UserError(f"{path} has no {missing[0]}: it is not {archive.url}")
  width = len(archive.labels) + _PIXELS
  records = {}
  for split, files in archive.files.items():
    data = b"".join(found[f] for f in files)
    if not data or len(data) % width:
      raise UserError(f"{path}: the files of {split} are no whole number of {width}-byte records")
    records[split] = np.frombuffer(data, np.uint8).reshape(-1, width)
  class_names = {label: found[file].decode().split() for label, file in archive.labels.items()}
  for k, (label, known) in enumerate(class_names.items()):
    if max(int(r[:, k].max()) for r in records.values()) >= len(known):
      raise UserError(f"{path}: a {label} lies beyond the {len(known)} class names")
  return Content(class_names, records)
