"""Descriptions of tensors in PyTorch's files, checked before any memory is taken."""

import dataclasses
from typing import Any

import ml_dtypes
import numpy as np

_STORAGES = {
  "Byte": np.uint8,
  "Char": np.int8,
  "Short": np.int16,
  "Int": np.int32,
  "Long": np.int64,
  "Half": np.float16,
  "BFloat16": ml_dtypes.bfloat16,
  "Float": np.float32,
  "Double": np.float64,
  "Bool": np.bool_,
  "ComplexFloat": np.complex64,
  "ComplexDouble": np.complex128,
}
STORAGE_DTYPES = {f"torch.{name}Storage": np.dtype(dtype) for name, dtype in _STORAGES.items()} | {
  f"torch.storage.{name}": np.dtype(np.uint8) for name in ("UntypedStorage", "_UntypedStorage")
}
DTYPES = {
  f"torch.{name}": np.dtype(getattr(ml_dtypes, name, None) or name)
  for name in (
    *("uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128", "bool"),
    *("bfloat16", "float8_e4m3fn", "float8_e5m2"),
  )
}


class Damaged(Exception):
  """The file is not what it should be; the message says where."""


@dataclasses.dataclass(frozen=True)
class Storage:
  """A piece of memory in the file.

  Attributes:
    key: that the file has for it.
    dtype: of its elements, little endian.
    numel: their number.
    start: of a view of another storage, in elements.
    length: of that view.
  """

  key: str
  dtype: np.dtype
  numel: int
  start: int
  length: int


@dataclasses.dataclass(frozen=True)
class Tensor:
  """A tensor that is not read yet; offset and strides are in elements of `dtype`."""

  storage: Storage
  dtype: np.dtype
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]

  def read(self, data: bytes) -> np.ndarray:
    """Returns the array, given the whole storage's bytes."""
    if 0 in self.shape:
      return np.zeros(self.shape, self.dtype)
    step = self.storage.dtype.itemsize
    begin = self.storage.start * step
    flat = np.frombuffer(data, np.uint8)[begin : begin + self.storage.length * step]
    flat = flat[: len(flat) // self.dtype.itemsize * self.dtype.itemsize].view(self.dtype)
    strides = tuple(s * self.dtype.itemsize for s in self.strides)
    return np.lib.stride_tricks.as_strided(
      flat[self.offset :], self.shape, strides, writeable=False
    )


def whole(x: Any, what: str) -> int:
  """Returns x, which must be an index or a size."""
  if type(x) is not int or not 0 <= x < 2**48:
    raise Damaged(f"a tensor's {what} is {str(x)[:40] if type(x) is int else type(x).__name__}")
  return x


def wholes(x: Any, what: str) -> tuple[int, ...]:
  """Returns x, which must be a few indices or sizes."""
  if not isinstance(x, tuple | list) or len(x) > 32:
    raise Damaged(f"a tensor's {what} is no short tuple")
  return tuple(whole(v, what) for v in x)


def tensor(
  storage: Any, offset: Any, shape: Any, strides: Any, dtype: np.dtype | None = None
) -> Tensor:
  """Returns a tensor; raises Damaged unless it lies inside its storage."""
  if not isinstance(storage, Storage):
    raise Damaged("a tensor has no storage")
  dtype = storage.dtype if dtype is None else dtype
  offset, shape = whole(offset, "offset"), wholes(shape, "shape")
  strides = wholes(strides, "stride")
  if len(shape) != len(strides):
    raise Damaged(f"a tensor has {len(shape)} sizes and {len(strides)} strides")
  room = storage.length * storage.dtype.itemsize // dtype.itemsize
  count = 1
  for size in shape:
    count *= size
  last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
  if count and (last >= room or count > room):
    raise Damaged(
      f"a tensor of shape {shape} with strides {strides} at {offset} is larger than its storage "
      f"of {room} elements"
    )
  return Tensor(storage, dtype, offset, shape, strides)
