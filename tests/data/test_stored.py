"""Images that are decoded as far as a crop needs them: the same pixels, and fewer of them."""

import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.data.conftest import write_image
from tests.data.pictures import distance, photo
from vit_jax.data import images, jpeg, sources
from vit_jax.data.crops import crop_box
from vit_jax.data.stored import Stored, cut
from vit_jax.data.transforms import Transform
from vit_jax.data.uniforms import uniforms
from vit_jax.errors import UserError

_SAMPLINGS = {
  "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
  "4:2:2": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
  "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
  "4:4:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440,
  "4:1:1": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411,
}


def _scene(height, width, cells=20):
  """A picture as cameras make them: detail in the light, little of it in the colours."""
  light = photo(height, width, cells=cells, noise=3, channels=1).astype(float)
  colours = photo(height, width, cells=4, noise=0)
  return (0.8 * light + 0.2 * colours).round().astype(np.uint8)


def _jpeg(image, *options):
  return cv2.imencode(".jpg", image[..., ::-1], options)[1].tobytes()


def _pillow(image, mode="RGB", **options):
  file = io.BytesIO()
  Image.fromarray(image).convert(mode).save(file, "jpeg", **options)
  return file.getvalue()


def _files():
  """Name -> bytes of the kinds of file that a folder of photographs may hold."""
  rotated = Image.Exif()
  rotated[0x0112] = 6
  image = _scene(117, 93)
  thumbnail = _jpeg(photo(16, 16))
  plain = _jpeg(image)
  header = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
  with_picture = b"\xff\xe2\x00\x06MPF\x00"
  found = {
    name: _jpeg(image, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, value)
    for name, value in _SAMPLINGS.items()
  }
  return found | {
    "progressive": _jpeg(image, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "restart markers": _jpeg(image, cv2.IMWRITE_JPEG_RST_INTERVAL, 3),
    "optimised": _jpeg(image, cv2.IMWRITE_JPEG_OPTIMIZE, 1),
    "grey": _pillow(image, "L"),
    "CMYK": _pillow(image, "CMYK"),
    "rotated": _pillow(image, exif=rotated),
    "thumbnail": plain[:2] + header + plain[2:],
    "two pictures": plain[:2] + with_picture + plain[2:] + plain,
    "bytes after the end": plain + b"\0" * 9,
    "png": images.encode_png(image),
    "bmp": cv2.imencode(".bmp", image)[1].tobytes(),
  }


_FILES = _files()
_CUTTABLE = {*_SAMPLINGS, "optimised", "grey", "CMYK", "rotated", "thumbnail"}


def _stored(data, channels=3):
  return Stored(data, "x.jpg", "replace it", channels)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", _FILES)
def test_a_cut_is_that_of_the_decoded_image(kind, channels, capfd):
  data = _FILES[kind]
  whole = images.decode(data, channels)
  assert _stored(data, channels).shape == whole.shape == (117, 93, channels)
  rng = np.random.default_rng(0)
  boxes = rng.integers((0, 0, 1, 1), (60, 60, 34, 34), (20, 4)).tolist()
  rows = [(0, 0, stop, 93) for stop in range(1, 118)]  # every place to stop
  for y, x, h, w in boxes + rows:
    got = _stored(data, channels).cut(y, x, h, w)
    np.testing.assert_array_equal(got, whole[y : y + h, x : x + w])
  np.testing.assert_array_equal(_stored(data, channels).decode(), whole)
  assert capfd.readouterr().err == ""  # libjpeg complains there of what it was given


@pytest.mark.parametrize("kind", _FILES)
def test_rows_below_the_cut_are_not_decoded(kind):
  data = _FILES[kind]
  head = jpeg.header(data)
  if kind in ("png", "bmp"):
    assert head is None
    return
  part = jpeg.top(data, head, 40)
  if kind not in _CUTTABLE:
    assert part is data
    return
  decoded = images.decode_any(part, 3)
  assert 40 < len(decoded) <= 64
  np.testing.assert_array_equal(decoded[:40], images.decode(data)[:40])
  assert jpeg.top(data, head, 117) is data


@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
def test_a_file_cut_short_is_named_whatever_is_needed_of_it(at):
  data = _FILES["4:2:0"]
  for take in (Stored.decode, lambda s: s.cut(0, 0, 5, 5), lambda s: s.cut(0, 0, 90, 90, 8)):
    with pytest.raises(UserError) as e:
      take(_stored(data[: int(at * len(data))]))
    assert str(e.value) == "corrupt image x.jpg (the file is cut short): replace it"


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_broken_bytes_give_an_error_or_an_image(data):
  found = bytearray(_FILES[data.draw(st.sampled_from(sorted(_FILES)))])
  for _ in range(data.draw(st.integers(1, 4))):
    found[data.draw(st.integers(0, min(700, len(found) - 1)))] = data.draw(st.integers(0, 255))
  image = _stored(bytes(found))
  try:
    h, w, _ = image.shape
    found = image.cut(0, 0, min(h, 20), min(w, 20)) if h * w < 10**6 else None
  except UserError as e:
    found, message = None, str(e)
    assert message.startswith("corrupt image x.jpg"), message  # noqa: PT017
  assert found is None or found.dtype == np.uint8


@pytest.mark.parametrize(
  "data", [b"", b"\xff\xd8", b"\xff\xd8\xff", b"<html>", b"\xff\xd8\xff\xda"]
)
def test_what_is_no_image_has_no_header(data):
  assert jpeg.header(data) is None
  with pytest.raises(UserError, match="corrupt image x.jpg"):
    _ = _stored(data).shape


@pytest.mark.parametrize("kind", ["4:4:4", "4:2:0", "progressive", "grey", "CMYK"])
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_scaled_pixels_are_means_of_pixels(kind, scale):
  data = _FILES[kind]
  decoded = images.decode(data)
  h, w = (112 // scale * scale, 88 // scale * scale)
  got = _stored(data).cut(0, 0, h, w, min(h, w) // scale)
  assert got.shape == (h // scale, w // scale, 3)
  means = decoded[:h, :w].reshape(h // scale, scale, w // scale, scale, 3).mean((1, 3))
  assert distance(got, means)[1] < 1.5


def test_a_scale_leaves_as_many_pixels_as_are_needed():
  data = _jpeg(photo(400, 500))
  for side, least, expected in ((400, 224, 400), (400, 200, 200), (399, 200, 399), (400, 50, 50)):
    assert _stored(data).cut(0, 0, side, side, least).shape[:2] == (expected, expected)


def test_scaling_changes_no_box_and_only_boxes_that_are_large():
  data = _jpeg(_scene(400, 500, cells=60))
  decoded = images.decode(data)
  n, size = 40, 100
  batch, at = [_stored(data) for _ in range(n)], np.arange(n)
  plain = Transform(f"inception_crop({size})")(batch, 3, at)
  scaled = Transform(f"inception_crop({size}, scaled=True)")(batch, 3, at)
  changed = 0
  for i, u in enumerate(uniforms(3, 0, at, 22)):
    y, x, h, w = crop_box(400, 500, u, (0.05, 1), (0.75, 4 / 3))
    scale = max([s for s in (1, 2, 4, 8) if min(h, w) >= s * size], default=1)
    if scale == 1:
      np.testing.assert_array_equal(scaled[i], plain[i])
      continue
    # What differs: each pixel is a mean over scale x scale, and the edges are rounded to these.
    means = images.resize(decoded, 400 // scale, 500 // scale, "area")
    top, left, bottom, right = (round(edge / scale) for edge in (y, x, y + h, x + w))
    expected = images.resize(means[top:bottom, left:right], size, size)
    assert distance(scaled[i], expected)[1] < 1.5
    changed += 1
  assert 5 < changed < n


@pytest.mark.parametrize(
  "text",
  [
    "inception_crop(24)|flip|value_range(-1, 1)",
    "random_resized_crop(24, interpolation='random')|normalize",
    "resize_small(30)|central_crop(24)|value_range(-1, 1)",
    "resize(24)",
    "trim(2)|inception_crop(24)",
  ],
)
def test_transforms_of_stored_images_are_those_of_decoded_ones(text):
  at = np.arange(len(_FILES))
  got = Transform(text)([_stored(data) for data in _FILES.values()], 1, at)
  expected = Transform(text)([images.decode(data) for data in _FILES.values()], 1, at)
  np.testing.assert_array_equal(got, expected)


def test_an_error_of_a_file_is_not_laid_to_the_transform():
  for text in ("", "inception_crop(8)", "resize(8)", "flip"):
    with pytest.raises(UserError) as e:
      Transform(text)([_stored(_FILES["4:2:0"][:-3])], 0, np.arange(1))
    assert str(e.value) == "corrupt image x.jpg (the file is cut short): replace it"


def test_pixels_in_memory_are_cut_too():
  image = photo()
  np.testing.assert_array_equal(cut(image, 3, 4, 5, 6, least=1), image[3:8, 4:10])


@pytest.mark.parametrize("split", ["train", "train[3:7]+val"])
def test_sources_give_what_they_read_undecoded(image_folder, split):
  write_image(image_folder / "val" / "cat" / "large.jpg", photo(60, 70))
  source = sources.load(str(image_folder), split)
  at = np.arange(len(source))[::-1]
  stored, labels = source.stored(at)
  pixels, expected = source.read(at)
  assert all(isinstance(image, Stored) for image in stored)
  np.testing.assert_array_equal(labels, expected)
  for a, b in zip(stored, pixels, strict=True):
    assert a.shape == b.shape
    np.testing.assert_array_equal(a.decode(), b)
