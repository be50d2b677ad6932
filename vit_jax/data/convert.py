"""Other TFDS sets as ArrayRecord: prepared as TFRecord, or not prepared yet."""

import difflib
import json
import shutil
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from vit_jax.data import tfds
from vit_jax.data.prepare import staged
from vit_jax.errors import UserError


def read_tfrecord(path: Path) -> Iterator[bytes]:
  """Yields the records of a TFRecord file.

  A record is its length (uint64), a checksum (uint32), its bytes, another checksum. The checksums
  are not looked at; the lengths must add up to the file.

  Raises:
    UserError: the file is cut short or no TFRecord.
  """
  with path.open("rb") as f:
    while head := f.read(12):
      length = struct.unpack("<Q", head[:8])[0] if len(head) == 12 else 0
      data = f.read(length + 4) if length < 2**31 else b""
      if len(head) < 12 or len(data) < length + 4:
        raise UserError(f"{path} is cut short or no TFRecord file: prepare the set again")
      yield data[:length]


def convert(name: str, data_dir: Path, out: Path) -> Path:
  """Writes a set prepared as TFRecord again as ArrayRecord: the same examples, byte for byte.

  Args:
    name: NAME, NAME:VERSION or NAME/CONFIG, prepared in `data_dir`.
    data_dir: where it is.
    out: where to.

  Returns:
    OUT/NAME/VERSION.

  Raises:
    UserError: it is not there, incomplete, or of another format.
  """
  from array_record.python.array_record_module import ArrayRecordWriter  # noqa: PLC0415

  base, _, version = name.partition(":")
  prepared = tfds.prepared(data_dir)
  versions = [v for v in prepared.get(base, []) if not version or v == version]
  if not versions:
    raise UserError(
      f"{name} is not prepared in {data_dir}: there is {', '.join(sorted(prepared)) or 'nothing'}"
    )
  source = data_dir / base / versions[-1]
  if (out / base / source.name / tfds.INFO_FILE).is_file():
    raise UserError(f"{out / base / source.name} is there already: give another --out")
  meta = tfds.metadata(source)
  if tfds.file_format(source) != "tfrecord":
    raise UserError(f"{source} is of format {tfds.file_format(source)}: nothing to convert")
  with staged(base, source.name, out) as stage:
    target = stage / base / source.name
    target.mkdir(parents=True)
    for split in meta["splits"]:
      shards = sorted(source.glob(f"*-{split['name']}.tfrecord-*"))
      lengths = [int(n) for n in split["shardLengths"]]
      if len(shards) != len(lengths):
        raise UserError(
          f"{source} has {len(shards)} of the {len(lengths)} files of "
          f"{split['name']}: prepare the set again"
        )
      for shard, length in zip(shards, lengths, strict=True):
        path = target / shard.name.replace(".tfrecord-", ".array_record-")
        writer = ArrayRecordWriter(str(path), "group_size:1")  # TFDS's choice: random access
        count = 0
        for record in read_tfrecord(shard):
          writer.write(record)
          count += 1
        writer.close()
        if count != length:
          raise UserError(f"{shard} has {count} of {length} examples: prepare the set again")
        print(f"converted {shard.name}: {count:,} examples", file=sys.stderr)
    for path in source.iterdir():
      if ".tfrecord-" not in path.name and path.is_file():
        shutil.copy(path, target)
    (target / tfds.INFO_FILE).write_text(
      json.dumps({**meta, "fileFormat": "array_record"}, indent=2)
    )
  return out / base / source.name


def _official() -> list[str]:
  return tfds.library().list_builders(with_community_datasets=False)


def is_official(name: str) -> bool:
  """Whether TFDS has a set of this name; "NAME/CONFIG" and "NAME:VERSION" work too."""
  return name.split(":")[0].split("/")[0] in _official()


def prepare_official(name: str, out: Path) -> Path:
  """Has TFDS prepare one of its own sets, which takes TensorFlow.

  Raises:
    UserError: TFDS has no such set, TensorFlow is not installed, or the download fails.
  """
  if not is_official(name):
    near = difflib.get_close_matches(name.split(":")[0], _official(), n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UserError(f"{name} is no image folder and no data set of TFDS{hint}")
  try:
    import tensorflow  # noqa: F401, PLC0415
  except ImportError:
    raise UserError(
      f"TFDS prepares {name} with TensorFlow, once: pip install -e .[convert] (an "
      "environment of its own will do), then run the same command again"
    ) from None
  try:
    builder = tfds.library().builder(name, data_dir=out, file_format="array_record")
    builder.download_and_prepare()
  except Exception as e:  # TFDS and its downloads raise what they like
    raise UserError(f"TFDS could not prepare {name}: {tfds.one_line(e)}") from e
  return Path(builder.data_path)
