import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from vit_jax.data import cifar, folder, prepare, sources
from vit_jax.errors import UserError


def _by_pixels(images, labels):
  return {image.tobytes(): int(label) for image, label in zip(images, labels, strict=True)}


def test_cifar10_reads_back_identical(cifar10_archive, tmp_path, capsys):
  archive, expected = cifar10_archive
  prepare.prepare_cifar("cifar10", tmp_path / "out", archive, any_checksum=True)
  assert capsys.readouterr().out.endswith("cifar10/3.0.2 (train 30, test 6)\n")
  for split, (images, labels) in expected.items():
    source = sources.load("cifar10", split, tmp_path / "out")
    assert len(source) == len(images)
    assert source.info.class_names == tuple(f"class{i}" for i in range(10))
    got_images, got_labels = source.read(range(len(source)))
    assert _by_pixels(got_images, got_labels) == _by_pixels(images, labels)


def test_cifar10_has_the_features_of_tfds(cifar10_archive, tmp_path):
  from vit_jax.data import tfds

  prepare.prepare_cifar("cifar10", tmp_path, cifar10_archive[0], any_checksum=True)
  builder = tfds.library().builder("cifar10", data_dir=tmp_path)  # TFDS's own class finds it
  data = builder.as_data_source(split="train")
  assert len(data) == 30
  assert set(data[0]) == {"id", "image", "label"}
  assert {e["id"] for e in data} == {f"train_{i:05d}".encode() for i in range(30)}
  order = [e["id"] for e in data]
  assert order != sorted(order)  # shuffled by hashed keys: a slice holds all files


def test_cifar100_has_both_labels(tmp_path, make_tar):
  rng = np.random.default_rng(2)
  records = {s: rng.integers(0, 20, (4, 3074), dtype=np.uint8) for s in ("train", "test")}
  names = {"coarse_label_names.txt": 20, "fine_label_names.txt": 100}
  path = make_tar(
    tmp_path / "cifar-100-binary.tar.gz",
    {f"{s}.bin": r.tobytes() for s, r in records.items()}
    | {f: "\n".join(f"c{i}" for i in range(n)).encode() for f, n in names.items()},
  )
  prepare.prepare_cifar("cifar100", tmp_path / "out", path, any_checksum=True)
  source = sources.load("cifar100", "train", tmp_path / "out")
  assert source.info.num_classes == 100
  fine = _by_pixels(*source.read(range(4)))
  expected = records["train"][:, 2:].reshape(4, 3, 32, 32).transpose(0, 2, 3, 1)
  assert fine == _by_pixels(expected, records["train"][:, 1])


def test_a_second_prepare_does_nothing(cifar10_archive, tmp_path, capsys):
  for _ in range(2):
    prepare.prepare_cifar("cifar10", tmp_path / "out", cifar10_archive[0], any_checksum=True)
  assert "is prepared already" in capsys.readouterr().out


def _damaged(path, tmp_path, kind, make_tar):
  bad = tmp_path / "bad.tar.gz"
  batches = [f"data_batch_{i}.bin" for i in range(1, 6)]
  if kind == "cut":
    bad.write_bytes(path.read_bytes()[:5000])
  elif kind == "text":
    bad.write_bytes(b"<html>")
  else:
    files = {
      "python": {"data_batch_1": b"x", "batches.meta": b"x"},
      "other": {"readme.txt": b"x"},
      "part": {
        **dict.fromkeys(batches, b"x" * 3072),
        "test_batch.bin": b"x",
        "batches.meta.txt": b"a",
      },
      "label": {
        **dict.fromkeys(batches, b"\x07" * 3073),
        "test_batch.bin": b"\0" * 3073,
        "batches.meta.txt": b"a\nb",
      },
    }
    make_tar(bad, files[kind])
  return bad


@pytest.mark.parametrize(
  ("kind", "message"),
  [
    ("cut", "cannot be read as an archive"),
    ("text", "cannot be read as an archive"),
    ("python", "Python version of cifar10, whose pickles"),
    ("other", "has no batches.meta.txt"),
    ("part", "no whole number of 3073-byte records"),
    ("label", "beyond the 2 class names"),
  ],
)
def test_a_wrong_archive_gives_one_line(cifar10_archive, tmp_path, make_tar, kind, message):
  bad = _damaged(cifar10_archive[0], tmp_path, kind, make_tar)
  with pytest.raises(UserError, match=message) as e:
    prepare.prepare_cifar("cifar10", tmp_path / "out", bad, any_checksum=True)
  assert "\n" not in str(e.value)
  assert not list((tmp_path / "out").glob("*"))


def test_another_archive_than_the_published_one_is_refused(cifar10_archive, tmp_path):
  with pytest.raises(UserError, match="SHA-256 differs.*--any-checksum"):
    prepare.prepare_cifar("cifar10", tmp_path / "out", cifar10_archive[0])
  with pytest.raises(UserError, match="is not there: download https://www.cs.toronto.edu"):
    prepare.prepare_cifar("cifar10", tmp_path / "out", tmp_path / "none.tar.gz")


def test_the_published_archives_are_named_by_checksum():
  assert {len(a.sha256) for a in cifar.ARCHIVES.values()} == {64}
  assert all(a.url.endswith("-binary.tar.gz") for a in cifar.ARCHIVES.values())


def test_a_folder_reads_back_identical(image_folder, tmp_path):
  prepare.prepare_folder(image_folder, tmp_path / "out")
  for split in ("train", "val"):
    direct = sources.load(str(image_folder), split)
    prepared = sources.load("pets", split, tmp_path / "out")
    assert prepared.info.class_names == direct.info.class_names
    assert len(prepared) == len(direct)
    for i in range(len(direct)):  # the order is the same too
      np.testing.assert_array_equal(prepared[i]["image"], direct[i]["image"])
      assert prepared[i]["label"] == direct[i]["label"]


def test_jpegs_are_kept_byte_for_byte(image_folder, tmp_path):
  from vit_jax.data import tfds

  prepare.prepare_folder(image_folder, tmp_path / "out", name="animals")
  lib = tfds.library()
  data = lib.builder_from_directory(tmp_path / "out" / "animals" / "1.0.0").as_data_source(
    split="train", decoders={"image": lib.decode.SkipDecoding()}
  )
  stored = {e["file_name"].decode(): e["image"] for e in data}
  for name, data in stored.items():
    if name.lower().endswith(("jpg", "jpeg", "png")):
      assert data == (image_folder / name).read_bytes()


def test_corrupt_images_are_listed_and_nothing_is_left(image_folder, tmp_path, capsys):
  bad = [image_folder / "train" / "cat" / "0.jpg", image_folder / "val" / "dog" / "1.png"]
  for path in bad:
    path.write_bytes(path.read_bytes()[:100])
  with pytest.raises(UserError, match="2 corrupt image.*--skip-corrupt") as e:
    prepare.prepare_folder(image_folder, tmp_path / "out")
  assert "\n" not in str(e.value)
  listed = capsys.readouterr().err
  assert all(f"corrupt image {path}" in listed for path in bad)
  assert not list((tmp_path / "out").iterdir())
  prepare.prepare_folder(image_folder, tmp_path / "out", skip_corrupt=True)
  captured = capsys.readouterr()
  assert all(f"corrupt image {path}" in captured.err for path in bad)
  assert "left out 2 corrupt image(s)" in captured.out
  assert len(sources.load("pets", "train", tmp_path / "out")) == 20


def test_a_name_that_tfds_cannot_take(image_folder, tmp_path):
  odd = image_folder.rename(image_folder.with_name("My Pets-2"))
  prepare.prepare_folder(odd, tmp_path / "out")
  assert (tmp_path / "out" / "my_pets_2" / "1.0.0").is_dir()
  with pytest.raises(UserError, match="'2x' cannot name a data set"):
    prepare.prepare_folder(odd, tmp_path / "out", name="2x")


def test_a_full_disk_gives_one_line(image_folder, tmp_path):
  blocked = tmp_path / "file"
  blocked.write_text("")
  with pytest.raises(UserError, match="cannot write .*file"):
    prepare.prepare_folder(image_folder, blocked / "out")


def test_two_at_once_are_refused(image_folder, tmp_path):
  out = tmp_path / "out"

  def first():
    with prepare.staged("pets", "1.0.0", out) as stage:
      (stage / "pets" / "1.0.0").mkdir(parents=True)
      yield

  running = first()
  next(running)
  with pytest.raises(UserError, match="another process is preparing pets"):
    prepare.prepare_folder(image_folder, out)
  assert next(running, "done") == "done"
  assert [p.name for p in out.iterdir()] == ["pets"]  # the first one is not disturbed


@pytest.mark.parametrize("moment", ["started", "writing"])
def test_a_killed_prepare_leaves_no_half_set(tmp_path, moment):
  rng = np.random.default_rng(0)
  root, out = tmp_path / "many", tmp_path / "out"
  for k in range(4):
    (root / "train" / str(k)).mkdir(parents=True)
    data = cv2.imencode(".png", rng.integers(0, 256, (96, 96, 3), dtype=np.uint8))[1].tobytes()
    for i in range(800):
      (root / "train" / str(k) / f"{i}.png").write_bytes(data)
  command = [sys.executable, "-m", "vit_jax.data", "prepare", str(root), "--out", str(out)]
  env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
  process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
  pattern = ".preparing-many" if moment == "started" else ".preparing-many/many/*/*"
  deadline = time.monotonic() + 30
  while not list(out.glob(pattern)) and process.poll() is None and time.monotonic() < deadline:
    time.sleep(0.002)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  assert process.returncode == -signal.SIGKILL
  assert (out / ".preparing-many").is_dir()
  with pytest.raises(UserError, match="unknown data set 'many'.*there is: nothing"):
    sources.load("many", "train", out)
  with contextlib.redirect_stderr(io.StringIO()):
    prepare.prepare_folder(root, out)
  assert len(sources.load("many", "train", out)) == 3200
  assert [p.name for p in out.iterdir()] == ["many"]


def test_layouts_are_those_of_the_folder_reader(tmp_path):
  image = np.zeros((4, 4, 3), np.uint8)
  for name in ("n02", "n01"):
    (tmp_path / "in" / "train" / name / "images").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "in" / "train" / name / "images" / "0.JPEG"), image)
  (tmp_path / "in" / "val" / "images").mkdir(parents=True)
  cv2.imwrite(str(tmp_path / "in" / "val" / "images" / "val_0.JPEG"), image)
  (tmp_path / "in" / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn02\t0\t0\t9\t9\n")
  prepare.prepare_folder(tmp_path / "in", tmp_path / "out", name="tiny")
  assert sources.load("tiny", "val", tmp_path / "out")[0]["label"] == 1
  assert folder.scan(tmp_path / "in").class_names == ("n01", "n02")
