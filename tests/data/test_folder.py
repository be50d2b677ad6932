import shutil

import cv2
import numpy as np
import pytest

from vit_jax.data import folder, images, sources
from vit_jax.errors import UserError


def test_reads_classes_files_and_labels(image_folder):
  source = sources.load(str(image_folder), "train")
  assert source.info.class_names == ("cat", "dog", "fish")
  assert (source.info.name, source.info.num_classes, len(source)) == ("pets", 3, 21)
  layout = folder.scan(image_folder)
  for i, (path, label) in enumerate(layout.splits["train"]):
    example = source[i]
    assert source.info.class_names[label] == path.parent.name
    assert example["label"] == label
    expected = cv2.imread(str(path))[..., ::-1]
    np.testing.assert_array_equal(example["image"], expected)
  assert len(sources.load(str(image_folder), "val")) == 6


def test_is_found_by_name_in_the_data_directory(image_folder):
  assert len(sources.load("pets", "val", image_folder.parent)) == 6


def test_the_order_is_fixed_and_mixes_the_classes(image_folder, tmp_path):
  labels = [label for _, label in folder.scan(image_folder).splits["train"]]
  assert labels != sorted(labels)
  copy = shutil.copytree(image_folder, tmp_path / "elsewhere" / "pets")
  assert labels == [label for _, label in folder.scan(copy).splits["train"]]


def test_tiny_imagenet_layout(tmp_path):
  image = np.zeros((4, 4, 3), np.uint8)
  data = images.encode_png(image)
  for wnid in ("n02", "n01"):
    for i in range(2):
      path = tmp_path / "train" / wnid / "images" / f"{wnid}_{i}.png"
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(data)
    (tmp_path / "train" / wnid / f"{wnid}_boxes.txt").write_text("")
  for split in ("val", "test"):
    (tmp_path / split / "images").mkdir(parents=True)
    for i in range(3):
      (tmp_path / split / "images" / f"{split}_{i}.png").write_bytes(data)
  (tmp_path / "val" / "val_annotations.txt").write_text(
    "val_0.png\tn02\t0\t0\t1\t1\nval_1.png\tn01\t0\t0\t1\t1\nval_2.png\tn02\t0\t0\t1\t1\n"
  )
  layout = folder.scan(tmp_path)
  assert layout.class_names == ("n01", "n02")
  assert len(layout.splits["train"]) == 4
  assert {p.name: k for p, k in layout.splits["val"]} == {
    "val_0.png": 1,
    "val_1.png": 0,
    "val_2.png": 1,
  }
  assert "test" not in layout.splits  # it has no labels


def test_grey_images_get_three_channels(tmp_path):
  grey = np.arange(16, dtype=np.uint8).reshape(4, 4)
  cv2.imwrite(str(tmp_path / "a.png"), grey)
  np.testing.assert_array_equal(
    folder.read_image(tmp_path / "a.png"), np.repeat(grey[..., None], 3, -1)
  )


@pytest.mark.parametrize(
  ("suffix", "damage", "reason"),
  [
    (".jpg", lambda d: d[: len(d) // 2], "cut short"),
    (".jpg", lambda d: d[:-2], "cut short"),
    (".png", lambda d: d[: len(d) // 2], "cut short"),
    (".webp", lambda d: d[: len(d) // 2], "cut short"),
    (".jpg", lambda d: b"", "the file is empty"),
    (".jpg", lambda d: b"<html>not found</html>", "not an image"),
    (".bmp", lambda d: d[:20], "not an image"),
  ],
)
def test_a_corrupt_file_is_named(tmp_path, suffix, damage, reason):
  path = tmp_path / f"x{suffix}"
  image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
  cv2.imwrite(str(path), image)
  good = path.read_bytes()
  folder.read_image(path)
  path.write_bytes(damage(good))
  with pytest.raises(UserError, match=reason) as e:
    folder.read_image(path)
  assert str(path) in str(e.value)
  assert "\n" not in str(e.value)


def test_a_thumbnail_does_not_hide_that_a_jpeg_is_cut_short():
  image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
  jpeg = cv2.imencode(".jpg", image)[1].tobytes()
  header = b"\xff\xe1" + (len(jpeg) + 2).to_bytes(2, "big") + jpeg  # a whole JPEG in the header
  whole = jpeg[:2] + header + jpeg[2:]
  np.testing.assert_array_equal(images.decode(whole), images.decode(jpeg))
  with pytest.raises(ValueError, match="cut short"):
    images.decode(whole[:-40])


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda r: shutil.rmtree(r / "train"), "has no train/ directory"),
    (lambda r: (r / "val" / "cat").rename(r / "val" / "cta"), "class 'cta', which"),
    (lambda r: [p.unlink() for p in r.glob("train/*/*")], "has no images"),
    (
      lambda r: (
        [p.rename(r / "val" / p.name) for p in r.glob("val/cat/*")]
        and [shutil.rmtree(p) for p in r.glob("val/*/")]
      ),
      "images without class directories",
    ),
  ],
)
def test_a_wrong_layout_gives_one_line(image_folder, change, message):
  change(image_folder)
  with pytest.raises(UserError, match=message) as e:
    folder.scan(image_folder)
  assert "\n" not in str(e.value)
