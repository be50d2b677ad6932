"""PyTorch's files without PyTorch: the zip archive (since 1.6) and the stream before it.

See pickles.py for what keeps a malicious file from running anything.
"""

import io
import struct
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from vit_jax.errors import UserError
from vit_jax.pretrained import pickles
from vit_jax.pretrained.tensors import Damaged, Storage, Tensor

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
# What Python's own readers raise for files that are not whole.
_READ_ERRORS = (
  *(zipfile.BadZipFile, struct.error, EOFError, OSError, RuntimeError, ValueError, MemoryError),
)


def is_zip(names: list[str]) -> bool:
  """Whether these members are those of PyTorch's archive."""
  return any(name == "data.pkl" or name.endswith("/data.pkl") for name in names)


class TorchFile:
  """The contents of one file; tensors are read when they are asked for.

  Attributes:
    tree: what was saved: of dict, list, tuple, numbers, str, tensors.Tensor and
      pickle_names.Opaque.
  """

  def __init__(self, path: Path) -> None:
    """Reads the description; `array` reads the tensors.

    Raises:
      UserError: a damaged file, or one with more than tensors in it.
    """
    self._path = path
    self._data: dict[str, bytes] = {}
    try:
      with path.open("rb") as f:
        is_zip = f.read(4) == b"PK\3\4"
        f.seek(0)
        self._archive = zipfile.ZipFile(path) if is_zip else None
        self.tree = self._open_zip() if is_zip else self._open_stream(f)
    except UserError:
      raise
    except (Damaged, *_READ_ERRORS) as e:
      raise self._damaged(e) from e

  def array(self, tensor: Tensor) -> np.ndarray:
    """Returns the array of a tensor in `tree`."""
    try:
      return tensor.read(self._storage(tensor.storage))
    except (Damaged, *_READ_ERRORS) as e:
      raise self._damaged(e) from e

  def _damaged(self, error: Exception) -> UserError:
    what = " ".join(str(error).split())[:160]
    return UserError(f"{self._path} is damaged ({what}): download or copy it again")

  def _member(self, name: str, most: int) -> bytes:
    try:
      info = self._archive.getinfo(name)
    except KeyError:
      raise Damaged(f"{name} is missing in it") from None
    # PyTorch never compresses, so a member cannot be larger than the file.
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
      raise Damaged(f"{name} is compressed in it")
    if info.file_size > most:
      raise Damaged(f"{name} has {info.file_size:,} bytes, more than the expected {most:,}")
    return self._archive.read(info)

  def _open_zip(self) -> Any:
    names = self._archive.namelist()
    pickle = next((n for n in names if n == "data.pkl" or n.endswith("/data.pkl")), None)
    if pickle is None:
      raise UserError(f"{self._path} is a zip archive, but not one that PyTorch or NumPy wrote")
    self._root = pickle.removesuffix("data.pkl")
    if f"{self._root}constants.pkl" in names:
      raise UserError(
        f"{self._path} is a TorchScript program: save the state_dict of the model instead"
      )
    if f"{self._root}byteorder" in names and self._member(f"{self._root}byteorder", 16) != (
      b"little"
    ):
      raise UserError(f"{self._path} has big-endian numbers: save it again on a usual machine")
    size = self._path.stat().st_size
    return pickles.read(io.BytesIO(self._member(pickle, size)), str(self._path))[0]

  def _storage(self, storage: Storage) -> bytes:
    key = storage.key
    if key not in self._data and self._archive is not None:
      self._data[key] = self._member(f"{self._root}data/{key}", self._path.stat().st_size)
    data = self._data.get(key)
    expected = storage.numel * storage.dtype.itemsize
    if data is None or len(data) != expected:
      found = "no" if data is None else f"{len(data):,}"
      raise Damaged(f"storage {key} has {found} bytes, not {expected:,}")
    return data

  def _open_stream(self, f: IO[bytes]) -> Any:
    """Five pickles (a number, a version, about the system, the object, keys), then storages."""
    where = str(self._path)
    if pickles.read(f, where)[0] != _MAGIC:
      raise Damaged("it does not begin as PyTorch's files")
    if pickles.read(f, where)[0] != _PROTOCOL:
      raise Damaged("it has an unknown version")
    system = pickles.read(f, where)[0]
    if not isinstance(system, dict) or system.get("little_endian") is not True:
      raise UserError(f"{self._path} has big-endian numbers: save it again on a usual machine")
    tree, storages = pickles.read(f, where)
    keys = pickles.read(f, where)[0]
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
      raise Damaged("the list of its storages is none")
    left = self._path.stat().st_size - f.tell()
    for key in keys:
      if key not in storages:
        raise Damaged(f"storage {key[:40]} belongs to no tensor")
      count = f.read(8)
      if len(count) != 8 or struct.unpack("<q", count)[0] != storages[key].numel:
        raise Damaged(f"storage {key[:40]} has another size than its tensors say")
      size = storages[key].numel * storages[key].dtype.itemsize
      left -= 8 + size
      if left < 0:
        raise Damaged("it ends early")
      self._data[key] = f.read(size)
    return tree
