"""Files of weights: NumPy's .npz, .safetensors, and PyTorch's, by their content, not their name."""

import dataclasses
import math
import zipfile
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from vit_jax.errors import UserError
from vit_jax.pretrained import torch_files
from vit_jax.pretrained.pickle_names import Opaque
from vit_jax.pretrained.tensors import Tensor

# Where training scripts put the state dict, the first first.
_WRAPPERS = (
  *(
    "model",
    "state_dict",
    "model_state_dict",
    "model_state",
    "module",
    "net",
    "network",
    "weights",
  ),
  *("state_dict_ema", "model_ema", "ema_state_dict", "ema"),
)


@dataclasses.dataclass
class Contents:
  """What is in a file.

  Attributes:
    kind: "npz", "safetensors" or "torch".
    arrays: by name; 16-bit floats are float32 here.
    wrapper: the keys around the state dict, such as "model"; empty without one.
    left_out: what is no tensor or lies outside the wrapper, in words.
    metadata: strings of a .safetensors file.
    dtypes: of the tensors as they are in the file, by name.
  """

  kind: str
  arrays: dict[str, np.ndarray]
  wrapper: str = ""
  left_out: tuple[str, ...] = ()
  metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
  dtypes: dict[str, str] = dataclasses.field(init=False)

  def __post_init__(self) -> None:
    """Makes 16-bit floats float32."""
    self.dtypes = {name: x.dtype.name for name, x in self.arrays.items()}
    for name, dtype in self.dtypes.items():
      if dtype in _SMALL_FLOATS:
        self.arrays[name] = self.arrays[name].astype(np.float32)


_SMALL_FLOATS = ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")


def read(path: str | PathLike) -> Contents:
  """Reads every tensor of a file; nothing in it is executed.

  Raises:
    UserError: no such file, one of an unknown kind, damaged, or with more than tensors in it.
  """
  path = Path(path).expanduser()
  if not path.is_file():
    hint = "a directory: give the file in it" if path.is_dir() else "not there"
    raise UserError(f"the file of weights {path} is {hint}")
  try:
    with path.open("rb") as f:
      start = f.read(64)
  except OSError as e:
    raise UserError(f"{path} cannot be read: {e.strerror}") from e
  if start[:4] in (b"PK\3\4", b"PK\5\6"):  # the latter: an archive of nothing
    return _read_zip(path)
  if start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5"):
    return _read_torch(path)
  if start[8:9] == b"{":
    return _read_safetensors(path)
  raise UserError(f"{path} is {_guess(path, start)}: it must be .npz, .safetensors, .pth or .bin")


def _guess(path: Path, start: bytes) -> str:
  if not start:
    return "empty"
  if start.startswith(b"\x89HDF"):
    return "an HDF5 file, as Keras writes them"
  if start.startswith(b"version https://git-lfs"):
    return "a pointer of Git LFS and not the weights (run `git lfs pull`)"
  if start.lstrip().startswith((b"<", b"{")):
    return "a text file, perhaps a web page or an index instead of the weights"
  return "no file of weights that is known here"


def _read_zip(path: Path) -> Contents:
  try:
    with zipfile.ZipFile(path) as archive:
      names = archive.namelist()
      sizes = {info.filename: info.file_size for info in archive.infolist()}
  except (zipfile.BadZipFile, OSError, NotImplementedError) as e:
    raise _damaged(path, e) from e
  if torch_files.is_zip(names):
    return _read_torch(path)
  if not all(name.endswith(".npy") for name in names):
    raise UserError(f"{path} is a zip archive, but none of NumPy's or PyTorch's")
  arrays = {}
  try:
    with zipfile.ZipFile(path) as archive:
      for name in names:
        with archive.open(name) as f:
          arrays[name.removesuffix(".npy")] = _read_npy(f, sizes[name], name, path)
  except UserError:
    raise
  except (zipfile.BadZipFile, OSError, EOFError, ValueError, RuntimeError, MemoryError) as e:
    raise _damaged(path, e) from e
  return Contents("npz", arrays)


def _read_npy(f: Any, size: int, name: str, path: Path) -> np.ndarray:
  """Reads one array; the header must agree with the size before memory is taken."""
  version = np.lib.format.read_magic(f)
  header = (
    np.lib.format.read_array_header_1_0
    if version == (1, 0)
    else np.lib.format.read_array_header_2_0
  )
  shape, fortran, dtype = header(f)
  if dtype.hasobject:
    raise UserError(f"{path}: {name} holds Python objects, not numbers: refused, nothing was run")
  count = math.prod(shape)
  if f.tell() + count * dtype.itemsize != size:
    raise ValueError(f"{name} has another size than its header says")
  x = np.frombuffer(f.read(), dtype).reshape(shape, order="F" if fortran else "C")
  # NumPy has no name for bfloat16 and writes it as two bytes without a meaning.
  return x.view(ml_dtypes.bfloat16) if x.dtype == np.dtype("V2") else x


def _read_safetensors(path: Path) -> Contents:
  import safetensors  # noqa: PLC0415  (only these files need it)

  try:
    with safetensors.safe_open(path, "np") as f:
      arrays = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
      return Contents("safetensors", arrays, metadata=f.metadata() or {})
  except (safetensors.SafetensorError, OSError, ValueError) as e:
    raise _damaged(path, e) from e
  except AttributeError as e:
    raise UserError(f"{path} has numbers of 8 or fewer bits, which are not read here") from e


def _damaged(path: Path, error: BaseException) -> UserError:
  what = " ".join(str(error).split()) or type(error).__name__
  return UserError(f"{path} is damaged ({what[:160]}): download or copy it again")


def _read_torch(path: Path) -> Contents:
  file = torch_files.TorchFile(path)
  state, wrapper, left_out = _unwrap(file.tree, path)
  arrays, others = {}, []
  for name, x in state.items():
    if isinstance(x, Tensor):
      arrays[str(name)] = file.array(x)
    else:
      others.append(f"{name} ({_kind(x)})")
  return Contents("torch", arrays, wrapper, (*left_out, *others))


def _kind(x: Any) -> str:
  return x.name if isinstance(x, Opaque) else type(x).__name__


def _has_tensors(x: Any) -> bool:
  return isinstance(x, dict) and any(isinstance(v, Tensor) for v in x.values())


def _unwrap(tree: Any, path: Path) -> tuple[dict, str, list[str]]:
  """Returns (the state dict, the keys around it, what is beside it)."""
  keys: list[str] = []
  left_out: list[str] = []
  while isinstance(tree, dict) and not _has_tensors(tree) and len(keys) < 4:
    inner = [k for k, v in tree.items() if isinstance(v, dict) and v]
    known = [k for k in _WRAPPERS if k in inner]
    tensors = [k for k in (*known, *inner) if _has_tensors(tree[k])]
    key = next(iter(tensors or known or inner[: len(inner) == 1]), None)
    if key is None:
      break
    left_out += [f"{k} ({_kind(v)})" for k, v in tree.items() if k != key]
    keys.append(str(key))
    tree = tree[key]
  if not _has_tensors(tree):
    raise UserError(f"{path} has no state dict with tensors in it, but {_summary(tree)}")
  return tree, ".".join(keys), left_out


def _summary(tree: Any) -> str:
  if isinstance(tree, Tensor):
    return "a single tensor"
  return f"the keys {some(tree)}" if isinstance(tree, dict) and tree else f"a {_kind(tree)}"


def some(names: Iterable[Any], most: int = 8) -> str:
  """Returns the first names, and how many there are beside these."""
  names = [str(name)[:80] for name in names]
  more = f" and {len(names) - most} more" if len(names) > most else ""
  return ", ".join(names[:most]) + more
