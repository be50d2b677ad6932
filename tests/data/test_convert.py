import importlib.util
import struct

import numpy as np
import pytest

from vit_jax.data import convert, prepare, sources, tfds
from vit_jax.errors import UserError


def _write_tfrecord(path, records):
  with path.open("wb") as f:
    for record in records:
      f.write(struct.pack("<QI", len(record), 1) + record + struct.pack("<I", 2))


@pytest.fixture
def tfrecord_set(image_folder, tmp_path):
  """The folder prepared, then its files put into TFRecord frames as TFDS would have them."""
  from array_record.python.array_record_module import ArrayRecordReader

  data_dir = tmp_path / "old"
  prepare.prepare_folder(image_folder, data_dir)
  directory = data_dir / "pets" / "1.0.0"
  for path in directory.glob("*.array_record-*"):
    reader = ArrayRecordReader(str(path))
    records = reader.read_all()
    reader.close()
    _write_tfrecord(path.with_name(path.name.replace("array_record", "tfrecord")), records)
    path.unlink()
  meta = directory / "dataset_info.json"
  meta.write_text(meta.read_text().replace("array_record", "tfrecord"))
  return data_dir


def test_a_converted_set_has_the_same_examples(tfrecord_set, image_folder, tmp_path):
  done = convert.convert("pets", tfrecord_set, tmp_path / "new")
  assert tfds.file_format(done) == "array_record"
  for split in ("train", "val"):
    direct = sources.load(str(image_folder), split)
    converted = sources.load("pets", split, tmp_path / "new")
    assert len(converted) == len(direct)
    for i in range(len(direct)):
      np.testing.assert_array_equal(converted[i]["image"], direct[i]["image"])
      assert converted[i]["label"] == direct[i]["label"]
  with pytest.raises(UserError, match="is there already"):
    convert.convert("pets", tfrecord_set, tmp_path / "new")


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (lambda p: p.write_bytes(p.read_bytes()[:-3]), "is cut short or no TFRecord"),
    (lambda p: p.write_bytes(b"no records at all"), "is cut short or no TFRecord"),
    (lambda p: _write_tfrecord(p, [b"x"]), "has 1 of 21 examples"),
    (lambda p: p.unlink(), "has 0 of the 1 files of train"),
  ],
)
def test_a_damaged_set_is_refused_and_nothing_is_left(tfrecord_set, tmp_path, damage, message):
  (records,) = tfrecord_set.glob("pets/*/*-train.tfrecord-*")
  damage(records)
  with pytest.raises(UserError, match=message):
    convert.convert("pets", tfrecord_set, tmp_path / "new")
  assert not list((tmp_path / "new").iterdir())


def test_what_is_not_there_or_not_tfrecord(tfrecord_set, image_folder, tmp_path):
  with pytest.raises(UserError, match="dtd is not prepared in .*: there is pets"):
    convert.convert("dtd", tfrecord_set, tmp_path / "new")
  with pytest.raises(UserError, match="pets:2.0.0 is not prepared"):
    convert.convert("pets:2.0.0", tfrecord_set, tmp_path / "new")
  prepare.prepare_folder(image_folder, tmp_path / "fine")
  with pytest.raises(UserError, match="is of format array_record: nothing to convert"):
    convert.convert("pets", tmp_path / "fine", tmp_path / "new")


@pytest.mark.skipif(
  importlib.util.find_spec("tensorflow") is not None,
  reason="TensorFlow is installed, so nothing is missing",
)
def test_an_official_set_without_tensorflow_names_the_extra(tmp_path):
  with pytest.raises(UserError, match=r"pip install -e \.\[convert\]") as e:
    convert.prepare_official("dtd", tmp_path)
  assert "\n" not in str(e.value)


def test_a_name_that_tfds_does_not_know(tmp_path):
  with pytest.raises(UserError, match="no data set of TFDS; did you mean dtd"):
    convert.prepare_official("dtdd", tmp_path)
