"""Images that are still the bytes of a file, decoded as far as a transform needs them."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from vit_jax.data import images, jpeg
from vit_jax.errors import UserError


class Stored:
  """An image in the bytes of its file.

  The header of a JPEG file says the size, so that a crop can be drawn before anything is decoded;
  other formats are decoded for it.
  """

  def __init__(self, data: bytes, name: str, remedy: str, channels: int = 3) -> None:
    """Takes the bytes.

    Args:
      data: of a JPEG, PNG, WebP or BMP file.
      name: what an error calls the image.
      remedy: what an error says to do.
      channels: 3 for RGB, 1 for grey.
    """
    self._data, self._name, self._remedy, self._channels = data, name, remedy, channels

  @property
  def shape(self) -> tuple[int, int, int]:
    """(H, W, C); errors as for `decode`."""
    if self._header is None:
      return self._pixels.shape
    return self._header.height, self._header.width, self._channels

  def decode(self) -> np.ndarray:
    """Returns uint8 [H, W, C].

    Raises:
      UserError: the bytes are no image, or an incomplete one.
    """
    return self._pixels

  def cut(self, y: int, x: int, height: int, width: int, least: int | None = None) -> np.ndarray:
    """Returns a box of the image, and decodes no row below it.

    Args:
      y: first row.
      x: first column.
      height: of the box.
      width: of the box.
      least: decode a JPEG file at 1/2, 1/4 or 1/8 of its size, the smallest at which the box still
        has so many pixels a side; None for its full size.

    Returns:
      uint8 [height, width, C], equal to that of the decoded image; or, at a scale s below 1,
      [round(s height), round(s width), C], give or take a pixel: its edges are those of the box,
      rounded to the coarser pixels.

    Raises:
      UserError: as for `decode`.
    """
    scale = 1
    if self._header is not None and least is not None:
      scale = next((s for s in images.SCALES if min(height, width) >= s * least), 1)
    rows = self._rows(y + height, scale)
    top, bottom, left, right = (round(edge / scale) for edge in (y, y + height, x, x + width))
    return rows[top:bottom, left:right]

  @cached_property
  def _header(self) -> jpeg.Header | None:
    return jpeg.header(self._data)

  @cached_property
  def _pixels(self) -> np.ndarray:
    try:
      return images.decode(self._data, self._channels)
    except ValueError as e:
      raise self._error(e) from None

  def _rows(self, stop: int, scale: int) -> np.ndarray:
    """Returns the rows before `stop` of the full size, and maybe others, at 1/scale."""
    if self._header is None:
      return self._pixels
    try:
      images.check_whole(self._data)
      found = None
      if (part := jpeg.top(self._data, self._header, stop)) is not self._data:
        found = images.decode_any(part, self._channels, scale)
      if found is None:
        found = images.decode_any(self._data, self._channels, scale)
    except ValueError as e:
      raise self._error(e) from None
    if found is None:
      raise self._error("not an image")
    return found

  def _error(self, reason: object) -> UserError:
    return UserError(f"corrupt image {self._name} ({reason}): {self._remedy}")


Images = np.ndarray | Sequence[np.ndarray | Stored]


def decoded(batch: Images) -> np.ndarray | list[np.ndarray]:
  """Returns images as pixels; errors as for `Stored.decode`."""
  if isinstance(batch, np.ndarray):
    return batch
  return [image.decode() if isinstance(image, Stored) else image for image in batch]


def cut(
  image: np.ndarray | Stored, y: int, x: int, height: int, width: int, least: int | None = None
) -> np.ndarray:
  """Returns a box of an image, see `Stored.cut`; of one in memory at its full size."""
  if isinstance(image, Stored):
    return image.cut(y, x, height, width, least)
  return image[y : y + height, x : x + width]
