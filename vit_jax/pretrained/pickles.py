"""Reads the pickles of PyTorch without executing them.

A pickle is a program for a small stack machine, and running it with `pickle.load` runs whatever
its author wanted. Here the opcodes are interpreted one by one, and only into numbers, strings,
lists, dictionaries and descriptions of tensors: nothing that a pickle names is ever imported,
called or instantiated. Names that tensors need are known; some harmless classes that training
scripts leave in checkpoints (argparse.Namespace) become an `Opaque` that holds nothing but the
name; every other name is refused.
"""

import pickletools
from collections.abc import Callable
from typing import IO, Any

from vit_jax.errors import UserError
from vit_jax.pretrained.pickle_names import CALLS, HARMLESS, KNOWN, Name, Opaque, put
from vit_jax.pretrained.tensors import STORAGE_DTYPES, Damaged, Storage, whole

# Opcodes of the largest training checkpoints are some hundred thousand; this bounds the memory
# that a small file can ask for.
_MOST_OPCODES = 5_000_000


class _Mark:
  pass


def _extend(out: Any, values: list) -> None:
  if isinstance(out, list):
    out.extend(values)
  elif not isinstance(out, Opaque):
    raise Damaged("an item is put into what is no list")


_VALUES = frozenset(
  [
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BYTEARRAY8"),
  ]
)
_CONSTANTS: dict[str, Callable[[], Any]] = {
  "NONE": lambda: None,
  "NEWTRUE": lambda: True,
  "NEWFALSE": lambda: False,
  "EMPTY_LIST": list,
  "EMPTY_DICT": dict,
  "EMPTY_TUPLE": tuple,
  "EMPTY_SET": lambda: Opaque("set"),
  "MARK": _Mark,
}


class _Machine:
  """The stack machine; one method for each opcode that is more than a constant."""

  def __init__(self, where: str) -> None:
    self.where = where
    self.stack: list[Any] = []
    self.memo: dict[int, Any] = {}
    self.storages: dict[str, Storage] = {}

  def run(self, stream: IO[bytes]) -> Any:
    for count, (opcode, arg, _) in enumerate(pickletools.genops(stream)):
      name = opcode.name
      if count > _MOST_OPCODES:
        raise Damaged(f"the pickle has more than {_MOST_OPCODES:,} instructions")
      if name == "STOP":
        return self.pop()
      if name in _VALUES:
        self.stack.append(arg)
      elif name in _CONSTANTS:
        self.stack.append(_CONSTANTS[name]())
      elif name not in ("PROTO", "FRAME"):
        method = getattr(self, f"do_{name.lower()}", None)
        if method is None:
          raise Damaged(f"the pickle has the instruction {name}, which PyTorch never writes")
        method(arg)
    raise Damaged("the pickle ends early")

  def pop(self) -> Any:
    if not self.stack or isinstance(self.stack[-1], _Mark):
      raise Damaged("the pickle takes more than it has put")
    return self.stack.pop()

  def pop_mark(self) -> list[Any]:
    for i in range(len(self.stack) - 1, -1, -1):
      if isinstance(self.stack[i], _Mark):
        items = self.stack[i + 1 :]
        del self.stack[i:]
        return items
    raise Damaged("the pickle lacks a mark")

  def top(self) -> Any:
    self.stack.append(self.pop())
    return self.stack[-1]

  def name(self, name: str) -> Name:
    if name not in KNOWN:
      raise UserError(
        f"{self.where} names {name[:80]!r}, which is no tensor: refused, and nothing was run; if "
        "you trust the file, load it with PyTorch and save its state_dict as .safetensors"
      )
    return Name(name)

  def call(self, function: Any, args: Any) -> Any:
    if not isinstance(function, Name) or not isinstance(args, tuple):
      raise Damaged("the pickle calls what is no function")
    if function.name in HARMLESS:
      return Opaque(function.name)
    if function.name not in CALLS:
      raise Damaged(f"the pickle calls {function.name}")
    return CALLS[function.name](*args)

  def do_pop(self, _: None) -> None:
    if not self.stack:
      raise Damaged("the pickle takes more than it has put")
    self.stack.pop()

  def do_pop_mark(self, _: None) -> None:
    self.pop_mark()

  def do_dup(self, _: None) -> None:
    self.stack.append(self.top())

  def do_put(self, index: int) -> None:
    self.memo[index] = self.top()

  do_binput = do_long_binput = do_put

  def do_memoize(self, _: None) -> None:
    self.memo[len(self.memo)] = self.top()

  def do_get(self, index: int) -> None:
    if index not in self.memo:
      raise Damaged(f"the pickle refers to its value {index}, which it lacks")
    self.stack.append(self.memo[index])

  do_binget = do_long_binget = do_get

  def do_list(self, _: None) -> None:
    self.stack.append(self.pop_mark())

  def do_tuple(self, _: None) -> None:
    self.stack.append(tuple(self.pop_mark()))

  def do_tuple1(self, _: None) -> None:
    self.stack.append((self.pop(),))

  def do_tuple2(self, _: None) -> None:
    self.stack.append(tuple(reversed([self.pop() for _ in range(2)])))

  def do_tuple3(self, _: None) -> None:
    self.stack.append(tuple(reversed([self.pop() for _ in range(3)])))

  def do_dict(self, _: None) -> None:
    items = self.pop_mark()
    self.stack.append({})
    self.put_pairs(self.stack[-1], items)

  def put_pairs(self, out: Any, items: list) -> None:
    if len(items) % 2:
      raise Damaged("a dictionary has a key without a value")
    for i in range(0, len(items), 2):
      put(out, items[i], items[i + 1])

  def do_setitem(self, _: None) -> None:
    value, key = self.pop(), self.pop()
    put(self.top(), key, value)

  def do_setitems(self, _: None) -> None:
    items = self.pop_mark()
    self.put_pairs(self.top(), items)

  def do_append(self, _: None) -> None:
    value = self.pop()
    _extend(self.top(), [value])

  def do_appends(self, _: None) -> None:
    items = self.pop_mark()
    _extend(self.top(), items)

  do_additems = do_appends

  def do_frozenset(self, _: None) -> None:
    self.pop_mark()
    self.stack.append(Opaque("frozenset"))

  def do_global(self, arg: str) -> None:
    self.stack.append(self.name(arg.replace(" ", ".", 1)))

  def do_stack_global(self, _: None) -> None:
    name, module = self.pop(), self.pop()
    if not isinstance(name, str) or not isinstance(module, str):
      raise Damaged("the pickle names something that is no name")
    self.stack.append(self.name(f"{module}.{name}"))

  def do_inst(self, arg: str) -> None:
    args = tuple(self.pop_mark())
    self.stack.append(self.call(self.name(arg.replace(" ", ".", 1)), args))

  def do_obj(self, _: None) -> None:
    function, *args = self.pop_mark() or [None]
    self.stack.append(self.call(function, tuple(args)))

  def do_reduce(self, _: None) -> None:
    args, function = self.pop(), self.pop()
    self.stack.append(self.call(function, args))

  do_newobj = do_reduce

  def do_newobj_ex(self, _: None) -> None:
    self.pop()
    self.do_reduce(None)

  def do_build(self, _: None) -> None:
    self.pop()  # the attributes of a state dict (its version), or of what is opaque
    if not isinstance(self.top(), dict | Opaque):
      raise Damaged("the pickle gives attributes to what has none")

  def do_binpersid(self, _: None) -> None:
    pid = self.pop()
    if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
      raise Damaged("the pickle refers to what is no storage")
    kind, key, _, numel = pid[1:5]
    if not isinstance(kind, Name) or kind.name not in STORAGE_DTYPES:
      raise Damaged("the pickle refers to a storage of an unknown kind")
    numel = whole(numel, "number of elements")
    start, length = 0, numel
    if len(pid) == 6 and pid[5] is not None:  # before PyTorch 1.6: a view of another storage
      _, start, length = _view(pid[5])
      if start + length > numel:
        raise Damaged("a view of a storage is larger than the storage")
    if not isinstance(key, str | int):
      raise Damaged("a storage's name is no name")
    storage = Storage(str(key), STORAGE_DTYPES[kind.name], numel, start, length)
    self.storages[storage.key] = storage
    self.stack.append(storage)


def _view(x: Any) -> tuple[Any, int, int]:
  if not isinstance(x, tuple) or len(x) != 3:
    raise Damaged("a view of a storage is no triple")
  return x[0], whole(x[1], "offset"), whole(x[2], "size")


def read(stream: IO[bytes], where: str) -> tuple[Any, dict[str, Storage]]:
  """Returns what a pickle describes, of dict, list, tuple, numbers, str, Tensor and Opaque.

  Args:
    stream: at the beginning of the pickle; afterwards at its end.
    where: how messages call the file.

  Returns:
    (the tree, every storage that the pickle mentions by its key).

  Raises:
    UserError: the pickle names something that is no tensor.
    Damaged: it is no pickle as PyTorch writes them.
  """
  machine = _Machine(where)
  try:
    return machine.run(stream), machine.storages
  except UserError:
    raise
  except (ValueError, TypeError, IndexError, AttributeError, OverflowError) as e:
    raise Damaged(f"the pickle cannot be read: {' '.join(str(e).split())[:120]}") from e
