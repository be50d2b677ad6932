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
    # The end-of-image marker of a thumbnail in the header comes before the start of the scan.
    return data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda") > 0
  if data[:4] == b"\x89PNG":
    return b"IEND" in data[-64:]
  if data[:4] == b"RIFF":
    return len(data) >= 8 + int.from_bytes(data[4:8], "little")
  return True


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
  if not data:
    raise ValueError("the file is empty")
  if not _is_whole(data):
    raise ValueError("the file is cut short")
  flags = cv2.IMREAD_COLOR_RGB if channels == 3 else cv2.IMREAD_GRAYSCALE
  try:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
  except cv2.error as e:
    raise ValueError(f"not an image ({e.err})") from None
  if image is None:
    raise ValueError("not an image")
  return image.reshape(*image.shape[:2], channels)


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
