"""Files and bytes to uint8 RGB arrays, and back to other sizes (OpenCV)."""

import cv2
import numpy as np

# The pipeline has its own threads; OpenCV's on top of them only fight over the cores.
cv2.setNumThreads(1)

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
CV2_INTERPOLATIONS = {
  "nearest": cv2.INTER_NEAREST,
  "bilinear": cv2.INTER_LINEAR,
  "bicubic": cv2.INTER_CUBIC,
  "area": cv2.INTER_AREA,
}
INTERPOLATIONS = tuple(CV2_INTERPOLATIONS)


def _is_whole(data: bytes) -> bool:
  """Whether the file has its end; OpenCV decodes a cut one and fills the rest with grey."""
  if data[:2] == b"\xff\xd8":
    # The end-of-image marker of a thumbnail in the header comes before the start of the scan; the
    # scan itself is long and need not be searched.
    end = data.rfind(b"\xff\xd9")
    return data.find(b"\xff\xda", 0, max(end, 0)) > 0 > data.find(b"\xff\xda", end)
  if data[:4] == b"\x89PNG":
    return b"IEND" in data[-64:]
  if data[:4] == b"RIFF":
    return len(data) >= 8 + int.from_bytes(data[4:8], "little")
  return True


# OpenCV's flags for (channels, scale); RGB of a reduced size is RGB with what says "reduced" only.
_FLAGS = {
  (3, 1): cv2.IMREAD_COLOR_RGB,
  (3, 2): cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_2,
  (3, 4): cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_4,
  (3, 8): cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_8,
  (1, 1): cv2.IMREAD_GRAYSCALE,
  (1, 2): cv2.IMREAD_REDUCED_GRAYSCALE_2,
  (1, 4): cv2.IMREAD_REDUCED_GRAYSCALE_4,
  (1, 8): cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
SCALES = (8, 4, 2, 1)


def decode(data: bytes, channels: int = 3) -> np.ndarray:
  """Decodes JPEG, PNG, WebP or BMP bytes.

  The orientation in a photo's EXIF header is ignored, as TensorFlow's and torchvision's loaders do.

  Args:
    data: the file.
    channels: 3 for RGB, 1 for grey; images of the other kind are converted, transparency and
      CMYK too.

  Returns:
    uint8 [H, W, channels].

  Raises:
    ValueError: the bytes are no image, or an incomplete one.
  """
  check_whole(data)
  image = decode_any(data, channels)
  if image is None:
    raise ValueError("not an image")
  return image


def check_whole(data: bytes) -> None:
  """Raises ValueError for a file that is empty or cut short."""
  if not data:
    raise ValueError("the file is empty")
  if not _is_whole(data):
    raise ValueError("the file is cut short")


def decode_any(data: bytes | bytearray, channels: int, scale: int = 1) -> np.ndarray | None:
  """Decodes bytes that need not be a whole file.

  Args:
    data: of JPEG, PNG, WebP or BMP.
    channels: 3 or 1.
    scale: one of SCALES, by which a side is divided, rounded up.

  Returns:
    uint8 [ceil(H / scale), ceil(W / scale), channels], or None where there is no image in them.

  Raises:
    ValueError: OpenCV says why there is none.
  """
  flags = _FLAGS[channels, scale] | cv2.IMREAD_IGNORE_ORIENTATION
  try:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
  except cv2.error as e:
    raise ValueError(f"not an image ({e.err})") from None
  return None if image is None else image.reshape(*image.shape[:2], channels)


def encode_png(image: np.ndarray) -> bytes:
  """Encodes uint8 [H, W, 3] RGB without loss."""
  return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def resize(
  image: np.ndarray,
  height: int,
  width: int,
  interpolation: str = "bilinear",
  antialias: bool = False,
) -> np.ndarray:
  """Resizes [H, W, C] with pixel centres at (i + 1/2) and edges repeated.

  Args:
    image: uint8 or float32 [H, W, C].
    height: of the result, in pixels.
    width: of the result, in pixels.
    interpolation: one of INTERPOLATIONS.
    antialias: average over all source pixels ("area") along with any reduction in size.

  Returns:
    [height, width, C] of the same dtype; uint8 is rounded.
  """
  h, w, channels = image.shape
  if (h, w) == (height, width):
    return image
  if antialias and height <= h and width <= w:
    interpolation = "area"
  out = cv2.resize(image, (width, height), interpolation=CV2_INTERPOLATIONS[interpolation])
  return out.reshape(height, width, channels)  # OpenCV drops a single channel
