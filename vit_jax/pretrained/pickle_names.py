"""What a pickle of PyTorch may name, and what becomes of it; nothing of it is ever imported."""

import dataclasses
from collections.abc import Callable
from typing import Any

from vit_jax.pretrained.tensors import DTYPES, STORAGE_DTYPES, Damaged, Tensor, tensor, wholes

# Data that training scripts leave beside the tensors. Only the name is kept.
HARMLESS = frozenset(
  [
    *(f"{m}.{n}" for m in ("builtins", "__builtin__") for n in ("set", "frozenset", "object")),
    *(f"{m}._reconstructor" for m in ("copyreg", "copy_reg")),
    *(f"numpy.{m}.multiarray.{n}" for m in ("core", "_core") for n in ("scalar", "_reconstruct")),
    *(f"numpy.{m}.numeric._frombuffer" for m in ("core", "_core")),
    *(f"pathlib.{n}" for n in ("Path", "PosixPath", "PurePosixPath", "WindowsPath")),
    *(f"pathlib._local.{n}" for n in ("Path", "PosixPath", "PurePosixPath", "WindowsPath")),
    *("numpy.dtype", "numpy.ndarray", "_codecs.encode", "torch.device"),
    *("argparse.Namespace", "types.SimpleNamespace", "collections.defaultdict"),
    *("yacs.config.CfgNode", "easydict.EasyDict", "datetime.datetime", "datetime.timedelta"),
  ]
)


@dataclasses.dataclass(frozen=True)
class Opaque:
  """Something that was named and left alone."""

  name: str


@dataclasses.dataclass(frozen=True)
class Name:
  """A name that is known; what it stands for is never looked up."""

  name: str


def _tensor_v3(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Tensor:
  # requires_grad, hooks, dtype
  dtype = DTYPES.get(rest[2].name) if len(rest) > 2 and isinstance(rest[2], Name) else None
  if dtype is None:
    raise Damaged("a tensor has an unknown dtype")
  return tensor(storage, offset, shape, strides, dtype)


def _parameter(data: Any, *_: Any) -> Tensor:
  if not isinstance(data, Tensor):
    raise Damaged("a parameter has no tensor")
  return data


def _from_type(function: Any, _: Any, args: Any, *__: Any) -> Any:
  """A tensor with attributes: function(*args), and a state that is left out."""
  if not isinstance(function, Name) or function.name not in _TENSORS:
    raise Damaged("a tensor is built by no known function")
  return _TENSORS[function.name](*args)


def put(out: Any, key: Any, value: Any) -> None:
  """Puts an entry into a dictionary; what is opaque takes it and forgets it."""
  if isinstance(out, dict):
    # Other keys are nobody's parameter names, and nested tuples take exponential time to hash.
    if isinstance(key, str | int | float | bytes | None):
      out[key] = value
  elif not isinstance(out, Opaque):
    raise Damaged("an entry is put into what is no dictionary")


def _ordered(pairs: Any = ()) -> dict:
  out: dict = {}
  for key, value in pairs:
    put(out, key, value)
  return out


def _size(x: Any = ()) -> tuple:
  return wholes(x, "shape")


_TENSORS: dict[str, Callable[..., Any]] = {
  "torch._utils._rebuild_tensor": tensor,
  "torch._utils._rebuild_tensor_v2": lambda storage, offset, shape, strides, *_: tensor(
    storage, offset, shape, strides
  ),
  "torch._utils._rebuild_tensor_v3": _tensor_v3,
  "torch._utils._rebuild_parameter": _parameter,
  "torch._utils._rebuild_parameter_with_state": _parameter,
}
# What a name is when the pickle calls it.
CALLS = _TENSORS | {
  "torch._tensor._rebuild_from_type_v2": _from_type,
  "collections.OrderedDict": _ordered,
  "torch.Size": _size,
}
# Every other name is refused.
KNOWN = frozenset(
  [*CALLS, *STORAGE_DTYPES, *DTYPES, *HARMLESS]
  + ["torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.Parameter"]
)
