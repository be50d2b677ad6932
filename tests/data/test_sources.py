import json
import os
import subprocess
import sys

import numpy as np
import pytest

from vit_jax.data import prepare, sources
from vit_jax.errors import UserError

_REAL = os.environ.get("TFDS_DATA_DIR")
_needs_cifar10 = pytest.mark.skipif(
  not _REAL or not os.path.isdir(os.path.join(_REAL, "cifar10")),
  reason="TFDS_DATA_DIR does not name a directory with a prepared cifar10",
)
_TINY = "synthetic(train_size=1000, test_size=100)"


@pytest.fixture(autouse=True)
def _away_from_home(monkeypatch, tmp_path):
  monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
  monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.mark.parametrize(
  ("split", "expected"),
  [
    ("train", range(1000)),
    ("train[:98%]", range(980)),
    ("train[98%:]", range(980, 1000)),
    ("train[25%:75%]", range(250, 750)),
    ("train[100:-100]", range(100, 900)),
    ("train[-5:]", range(995, 1000)),
    ("train[990:5000]", range(990, 1000)),
    ("train[:3]+train[500:502] + train[:1]", [0, 1, 2, 500, 501, 0]),
  ],
)
def test_slices(split, expected):
  whole, part = sources.load(_TINY, "train"), sources.load(_TINY, split)
  expected = list(expected)
  assert len(part) == part.info.size == len(expected)
  assert part.info.split == split
  for a, b in ((range(len(part)), expected), ([len(part) - 1, 0], [expected[-1], expected[0]])):
    images, labels = part.read(a)
    expected_images, expected_labels = whole.read(b)
    np.testing.assert_array_equal(np.stack(list(images)), expected_images)
    np.testing.assert_array_equal(labels, expected_labels)
  assert part[len(part) - 1]["label"] == whole[expected[-1]]["label"]
  with pytest.raises(IndexError):
    part[len(part)]


def test_joins_different_splits():
  both = sources.load(_TINY, "train+test")
  assert len(both) == 1100
  np.testing.assert_array_equal(both[1000]["image"], sources.load(_TINY, "test")[0]["image"])


@pytest.mark.parametrize(
  ("split", "message"),
  [
    ("val", "has no split 'val': it has train, test"),
    ("train[:0]", "'train\\[:0\\]' of .* is empty: train has 1000 examples"),
    ("train[:98", "cannot be read: write train, train"),
    ("train[::2]", "cannot be read"),
    ("", "cannot be read"),
  ],
)
def test_wrong_splits_give_one_line(split, message):
  with pytest.raises(UserError, match=message):
    sources.load(_TINY, split)


@pytest.fixture
def prepared(cifar10_archive, tmp_path):
  """A directory with a small prepared cifar10, and what is in it."""
  archive, expected = cifar10_archive
  prepare.prepare_cifar("cifar10", tmp_path / "sets", archive, any_checksum=True)
  return tmp_path / "sets", expected


def test_the_data_directory_is_the_argument_then_the_variable_then_home(monkeypatch, tmp_path):
  assert sources.data_directory() == tmp_path / "home" / "tensorflow_datasets"
  monkeypatch.setenv("TFDS_DATA_DIR", "/b")
  assert str(sources.data_directory()) == "/b"
  assert str(sources.data_directory("/a")) == "/a"


def test_an_unknown_name_gives_the_nearest_and_what_is_there(prepared):
  directory, _ = prepared
  with pytest.raises(UserError) as e:
    sources.load("cifar01", "train", directory)
  assert str(e.value) == (
    "unknown data set 'cifar01': did you mean cifar10? Else prepare it with: python -m "
    f"vit_jax.data prepare cifar01 --out {directory} (in {directory} there is: cifar10)"
  )
  with pytest.raises(UserError, match="did you mean synthetic"):
    sources.load("syntetic", "train", directory)


def test_a_missing_directory_is_named(tmp_path):
  with pytest.raises(UserError, match="data directory .*gone is not there.*prepare cifar10 --out"):
    sources.load("cifar10", "train", tmp_path / "gone")
  with pytest.raises(UserError, match="image folder /no/pets is not there"):
    sources.load("/no/pets", "train")
  (tmp_path / "empty").mkdir()
  with pytest.raises(UserError, match="has no train/ directory"):
    sources.load(str(tmp_path / "empty"), "train")


def test_a_missing_version_lists_those_there(prepared):
  directory, _ = prepared
  assert len(sources.load("cifar10:3.0.2", "test", directory)) == 6
  with pytest.raises(UserError, match="has cifar10 in version 3.0.2 only"):
    sources.load("cifar10:9.9.9", "test", directory)


def test_the_newest_version_is_read(prepared):
  directory, _ = prepared
  (directory / "cifar10" / "3.0.2").rename(directory / "cifar10" / "10.0.0")
  meta = directory / "cifar10" / "10.0.0" / "dataset_info.json"
  meta.write_text(meta.read_text().replace("3.0.2", "10.0.0"))
  older = directory / "cifar10" / "9.0.0"
  older.mkdir()
  (older / "dataset_info.json").write_text("{}")
  assert len(sources.load("cifar10", "test", directory)) == 6


def test_a_tfrecord_set_says_how_to_convert_it(prepared):
  directory, _ = prepared
  meta = directory / "cifar10" / "3.0.2" / "dataset_info.json"
  meta.write_text(meta.read_text().replace("array_record", "tfrecord"))
  with pytest.raises(UserError, match="was prepared as tfrecord.*vit_jax.data convert cifar10"):
    sources.load("cifar10", "train", directory)


@pytest.mark.parametrize("damage", ["cut", "missing", "json"])
def test_a_damaged_set_gives_one_line(prepared, damage):
  directory, _ = prepared
  if damage == "json":
    (directory / "cifar10" / "3.0.2" / "dataset_info.json").write_text("{")
  (records,) = (directory / "cifar10").glob("*/*-train.array_record*")
  if damage == "cut":
    records.write_bytes(records.read_bytes()[:1000])
  if damage == "missing":
    records.unlink()
  with pytest.raises(UserError, match="prepare .*again") as e:
    sources.load("cifar10", "train", directory).read(range(30))
  assert "\n" not in str(e.value)


def test_a_set_without_labels_says_so(prepared):
  directory, _ = prepared
  path = directory / "cifar10" / "3.0.2" / "features.json"
  features = json.loads(path.read_text())
  features["featuresDict"]["features"]["boxes"] = features["featuresDict"]["features"].pop("label")
  path.write_text(json.dumps(features))
  with pytest.raises(UserError, match="has the features boxes, id, image: an image classifier"):
    sources.load("cifar10", "train", directory)


def test_nothing_imports_tensorflow_and_synthetic_starts_fast():
  code = (
    "import sys; from vit_jax.data import sources; "
    f"s = sources.load({_TINY!r}, 'train'); s[0]; "
    "print(len(s), 'tensorflow' in sys.modules, 'tensorflow_datasets' in sys.modules)"
  )
  out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert out.stdout.split() == ["1000", "False", "False"]
  assert out.stderr == ""


@_needs_cifar10
def test_real_cifar10():
  source = sources.load("cifar10", "train[:98%]", _REAL)
  assert len(source) == 49_000
  assert source.info.class_names[3] == "cat"
  example = source[48_999]
  assert example["image"].shape == (32, 32, 3)
  assert example["image"].dtype == np.uint8
  images, labels = source.read(range(0, 49_000, 49))
  np.testing.assert_allclose(
    np.stack(images).mean((0, 1, 2)) / 255, (0.4914, 0.4822, 0.4465), atol=0.02
  )
  assert (np.bincount(labels, minlength=10) > 60).all()
  assert len(sources.load("cifar10", "test", _REAL)) == 10_000
