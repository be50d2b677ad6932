"""Small data sets made on the spot."""

import io
import tarfile

import cv2
import numpy as np
import pytest

from vit_jax.data.sources import ArraySource, Info


def write_image(path, image):
  path.parent.mkdir(parents=True, exist_ok=True)
  assert cv2.imwrite(str(path), image[..., ::-1])


@pytest.fixture(scope="session")
def numbered():
  """Makes a source whose image i is filled with the digits of i, so that batches say who is in."""

  def make(n, size=4, num_classes=10):
    i = np.arange(n)
    images = np.zeros((n, size, size, 3), np.uint8)
    images[..., 0], images[..., 1], images[..., 2] = (
      (d % 256)[:, None, None] for d in (i, i // 256, i // 65536)
    )
    info = Info(
      name="numbered",
      split="train",
      num_classes=num_classes,
      size=n,
      class_names=tuple(map(str, range(num_classes))),
    )
    return ArraySource(info, images, (i % num_classes).astype(np.int32))

  return make


@pytest.fixture(scope="session")
def numbers():
  """Reads the numbers back from a batch of images."""
  return lambda images: (images[:, 0, 0].astype(int) @ np.array([1, 256, 65536])).tolist()


@pytest.fixture
def image_folder(tmp_path):
  """A folder of 3 classes, train (7 each, of several sizes and formats) and val (2 each)."""
  rng = np.random.default_rng(0)
  root = tmp_path / "pets"
  for split, count in (("train", 7), ("val", 2)):
    for k, name in enumerate(("cat", "dog", "fish")):
      for i in range(count):
        image = rng.integers(0, 256, (12 + 2 * i, 16 + k, 3), dtype=np.uint8)
        suffix = ("jpg", "png", "JPEG", "bmp", "webp", "png", "jpeg")[i]
        write_image(root / split / name / f"{i}.{suffix}", image)
  return root


@pytest.fixture(scope="session")
def make_tar():
  """Writes {name: bytes} as an archive."""

  def make(path, files):
    with tarfile.open(path, "w:gz") as archive:
      for name, data in files.items():
        member = tarfile.TarInfo(f"some-directory/{name}")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return path

  return make


@pytest.fixture
def cifar10_archive(tmp_path, make_tar):
  """A CIFAR-10 binary archive with few images: its path, and split -> (images, labels)."""
  rng = np.random.default_rng(1)
  files, truth = {}, {"train": [], "test": []}
  for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
    records = rng.integers(0, 256, (6, 3073), dtype=np.uint8)
    records[:, 0] %= 10
    files[name] = records.tobytes()
    truth["test" if name == "test_batch.bin" else "train"].append(records)
  names = [f"class{i}" for i in range(10)]
  files["batches.meta.txt"] = "\n".join([*names, "", ""]).encode()
  expected = {}
  for split, records in truth.items():
    records = np.concatenate(records)
    planes = [records[:, 1 + 1024 * c : 1025 + 1024 * c].reshape(-1, 32, 32) for c in range(3)]
    expected[split] = np.stack(planes, -1), records[:, 0].astype(int)
  return make_tar(tmp_path / "cifar-10-binary.tar.gz", files), expected
