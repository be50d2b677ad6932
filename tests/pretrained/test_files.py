""".npz and .safetensors, and what is neither."""

import json
import struct
import subprocess
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from vit_jax.errors import UserError
from vit_jax.pretrained import files

ARRAYS = {
  "a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
  "number": np.float32(4),
  "double": np.arange(3.0),
  "half": np.arange(3, dtype=np.float16),
  "whole": np.arange(3, dtype=np.int64),
  "empty": np.zeros((0, 3), np.float32),
}


def assert_arrays(contents, dtype_of_half="float16"):
  assert contents.arrays.keys() == ARRAYS.keys()
  for name, x in ARRAYS.items():
    np.testing.assert_array_equal(contents.arrays[name], x)
  assert contents.arrays["half"].dtype == np.float32
  assert contents.arrays["double"].dtype == np.float64
  assert contents.dtypes["half"] == dtype_of_half


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, save):
  save(tmp_path / "x.npz", **ARRAYS)
  contents = files.read(tmp_path / "x.npz")
  assert_arrays(contents)
  assert contents.kind == "npz"


def test_npz_in_the_order_of_columns_and_in_bfloat16(tmp_path):
  x = np.arange(6, dtype=np.float32).reshape(2, 3)
  small = (x * 1.25).astype(ml_dtypes.bfloat16)
  np.savez(tmp_path / "x.npz", columns=np.asfortranarray(x), small=small.view("V2"))
  contents = files.read(tmp_path / "x.npz")
  np.testing.assert_array_equal(contents.arrays["columns"], x)
  np.testing.assert_array_equal(contents.arrays["small"], small.astype(np.float32))
  assert contents.dtypes["small"] == "bfloat16"


def test_safetensors(tmp_path):
  data = ARRAYS | {"small": ARRAYS["a/kernel"].astype(ml_dtypes.bfloat16)}
  safetensors.numpy.save_file(
    {k: np.asarray(x) for k, x in data.items()}, tmp_path / "x.safetensors", {"model": "m"}
  )
  contents = files.read(str(tmp_path / "x.safetensors"))
  small = contents.arrays.pop("small")
  assert_arrays(contents)
  assert small.dtype == np.float32
  np.testing.assert_array_equal(small, ARRAYS["a/kernel"])
  assert contents.dtypes["small"] == "bfloat16"
  assert contents.metadata == {"model": "m"}


def test_the_content_counts_and_not_the_name(tmp_path):
  np.savez(tmp_path / "x.npz", **ARRAYS)
  (tmp_path / "x.npz").rename(tmp_path / "x.bin")
  assert_arrays(files.read(tmp_path / "x.bin"))


def test_python_objects_in_npz_are_refused(tmp_path):
  np.savez(tmp_path / "x.npz", a=np.array([{}, None], dtype=object))
  with pytest.raises(UserError, match="a.npy holds Python objects, not numbers: refused"):
    files.read(tmp_path / "x.npz")


def test_an_npz_that_lies_about_its_size_takes_no_memory(tmp_path):
  np.save(tmp_path / "x.npy", np.zeros(4, np.float32))
  data = (tmp_path / "x.npy").read_bytes()
  data = data.replace(b"(4,), }" + b" " * 13, b"(4000000000000,), }" + b" ")
  assert b"4000000000000" in data
  with zipfile.ZipFile(tmp_path / "x.npz", "w") as f:
    f.writestr("x.npy", data)
  with pytest.raises(UserError, match="x.npy has another size than its header says"):
    files.read(tmp_path / "x.npz")


def safetensors_file(path, header, data=b""):
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  path.write_bytes(struct.pack("<Q", len(text)) + text + data)
  return path


@pytest.mark.parametrize(
  "header",
  [
    b"{not json",
    {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
    {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 400]}},
    {"a": {"dtype": "F32", "shape": [2**60], "data_offsets": [0, 2**62]}},
    {"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}},
  ],
  ids=str,
)
def test_damaged_safetensors_are_one_line(tmp_path, header):
  path = safetensors_file(tmp_path / "x.safetensors", header, b"\0" * 4)
  with pytest.raises(UserError, match="x.safetensors is damaged") as error:
    files.read(path)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_every_truncation_is_one_line(tmp_path, kind):
  path, cut = tmp_path / "x", tmp_path / "cut"
  if kind == "npz":
    with path.open("wb") as f:
      np.savez(f, **ARRAYS)
  else:
    safetensors.numpy.save_file({k: np.asarray(x) for k, x in ARRAYS.items()}, path)
  data = path.read_bytes()
  for end in range(0, len(data), 37):
    cut.write_bytes(data[:end])
    with pytest.raises(UserError) as error:
      files.read(cut)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("data", "message"),
  [
    (b"", "x is empty"),
    (b"\x89HDF\r\n\x1a\n" + b"\0" * 20, "an HDF5 file, as Keras writes them"),
    (b"<!DOCTYPE html><html>", "a text file, perhaps a web page"),
    (b'{"weight_map": {}}', "a text file, perhaps a web page or an index"),
    (b"version https://git-lfs.github.com/spec/v1\n", "run `git lfs pull`"),
    (b"\x00\x01\x02\x03" * 8, "no file of weights that is known here"),
  ],
)
def test_other_files_are_named(tmp_path, data, message):
  (tmp_path / "x").write_bytes(data)
  with pytest.raises(UserError, match=message):
    files.read(tmp_path / "x")


def test_missing_files_directories_and_other_archives(tmp_path):
  with pytest.raises(UserError, match="the file of weights .* is not there"):
    files.read(tmp_path / "x.npz")
  with pytest.raises(UserError, match="is a directory: give the file in it"):
    files.read(tmp_path)
  with zipfile.ZipFile(tmp_path / "x.zip", "w") as f:
    f.writestr("readme.txt", "hello")
  with pytest.raises(UserError, match="none of NumPy's or PyTorch's"):
    files.read(tmp_path / "x.zip")


def test_nothing_heavy_is_imported():
  code = (
    "import sys, vit_jax.pretrained; print({'torch', 'tensorflow', 'safetensors'} & {*sys.modules})"
  )
  out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert out.stdout.strip() == "set()"
