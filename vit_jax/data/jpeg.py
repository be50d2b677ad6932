"""What a JPEG file says before its pixels, and how to have only its upper rows decoded.

Most of decoding is reading the Huffman code, from the first row on: rows above a crop must be read,
rows below it need not be. OpenCV cannot be told where to stop, but it believes the file: one that
claims fewer rows is decoded down to there, to the same pixels.
"""

import dataclasses

_END = b"\xff\xd9"
_RESTARTS, _SCAN, _SIZES = 0xDD, 0xDA, range(0xC0, 0xD0)  # segments of ISO/IEC 10918-1, Table B.1
_NOT_SIZES = (0xC4, 0xC8, 0xCC)  # Huffman tables, reserved, arithmetic coding
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2


@dataclasses.dataclass(frozen=True)
class Header:
  """What a file says of its pixels.

  Attributes:
    height: in pixels.
    width: in pixels.
    at: where the height is written, in bytes from the start.
    block: rows of pixels that are coded together.
    whole: whether the rows can only be decoded all together: the file has several scans, restart
      markers, another picture, or something after its end.
  """

  height: int
  width: int
  at: int
  block: int
  whole: bool


def header(data: bytes) -> Header | None:
  """Returns what a file says; None for other formats and for rare or broken kinds of JPEG."""
  try:
    return _header(data)
  except IndexError:
    return None


def _header(data: bytes) -> Header | None:
  if data[:2] != b"\xff\xd8":
    return None
  at, kind, size_at, restarts = 2, 0, 0, False
  while data[at] == 0xFF:
    marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
    if marker == _SCAN:
      break
    if marker in _SIZES and marker not in _NOT_SIZES:
      kind, size_at = marker, at + 5
    if marker == _RESTARTS:
      restarts = restarts or data[at + 4 : at + 6] != b"\0\0"
    at += 2 + length
  else:
    return None
  known = kind in _SEQUENTIAL or kind == _PROGRESSIVE
  if not known or data[size_at - 1] != 8:
    return None
  height, width = (int.from_bytes(data[size_at + i : size_at + i + 2], "big") for i in (0, 2))
  components = data[size_at + 4]
  if not height or not width or not components:
    return None
  # A component's sampling factors are its second byte of three; a lone one is coded by itself.
  factors = [data[size_at + 6 + 3 * k] & 15 for k in range(components)]
  block = 8 * (max(factors) if components > 1 else 1)
  several = kind == _PROGRESSIVE or data[at + 4] != components
  other = b"MPF\0" in data[:at] or not data.endswith(_END)
  return Header(height, width, size_at, block, several or restarts or other)


def top(data: bytes, found: Header, stop: int) -> bytes | bytearray:
  """Returns a file whose rows 0..stop, at least, are those of another.

  Args:
    data: the file, a whole one.
    found: its header.
    stop: rows that are needed, at most the height.

  Returns:
    A file of the height that is a multiple of `block`, or the file itself where that saves nothing.
    It lacks the end marker: OpenCV stops after the last row in silence, where it would complain of
    the code that it finds before the end.
  """
  # The last row of a block takes colours from the block below it.
  rows = -(-(stop + 1) // found.block) * found.block
  if found.whole or rows >= found.height:
    return data
  cut = bytearray(memoryview(data)[: -len(_END)])
  cut[found.at : found.at + 2] = rows.to_bytes(2, "big")
  return cut
