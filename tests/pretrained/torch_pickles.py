"""Files of PyTorch put together by hand, opcode by opcode, so that they can also be wrong."""

import struct
import zipfile


def name(module, attribute):
  return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def text(s):
  return b"X" + struct.pack("<I", len(s.encode())) + s.encode()


def whole(n):
  return b"\x8a\x08" + struct.pack("<q", n)


def row(*items):
  return b"(" + b"".join(items) + b"t"


def table(**items):
  return b"}(" + b"".join(text(k) + v for k, v in items.items()) + b"u"


ORDERED = name("collections", "OrderedDict") + b")R"


def ordered(**items):
  """A state dict as PyTorch saves it, with attributes."""
  inner = b"(" + b"".join(text(k) + v for k, v in items.items()) + b"u"
  return ORDERED + inner + table(_metadata=ORDERED) + b"b"


def storage(key, kind, numel, *view):
  return (
    row(text("storage"), name("torch", kind), text(key), text("cpu"), whole(numel), *view) + b"Q"
  )


def tensor(source, offset, shape, strides):
  function = name("torch._utils", "_rebuild_tensor_v2")
  sizes = (row(*map(whole, x)) for x in (shape, strides))
  return function + row(source, whole(offset), *sizes, b"\x89", ORDERED) + b"R"


def parameter(inner):
  return name("torch._utils", "_rebuild_parameter") + row(inner, b"\x88", ORDERED) + b"R"


def call(module, attribute, *args):
  return name(module, attribute) + row(*args) + b"R"


def program(body, protocol=2):
  return b"\x80" + bytes([protocol]) + body + b"."


def write_zip(
  path, body, storages, byteorder=b"little", protocol=2, compression=zipfile.ZIP_STORED
):
  with zipfile.ZipFile(path, "w", compression) as f:
    f.writestr("archive/data.pkl", program(body, protocol))
    f.writestr("archive/byteorder", byteorder)
    for key, data in storages.items():
      f.writestr(f"archive/data/{key}", data)
    f.writestr("archive/version", "3\n")


def write_stream(path, body, storages, little=True):
  """The format before PyTorch 1.6; `storages` holds (number of elements, bytes)."""
  magic = b"\x8a\x0a" + (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
  system = table(protocol_version=whole(1001), little_endian=b"\x88" if little else b"\x89")
  keys = b"](" + b"".join(map(text, storages)) + b"e"
  parts = [program(x) for x in (magic, whole(1001), system, body, keys)]
  parts += [struct.pack("<q", n) + data for n, data in storages.values()]
  path.write_bytes(b"".join(parts))
