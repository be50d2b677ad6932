"""Writes data sets as TFDS ArrayRecord directories, without TensorFlow.

A set is written into a hidden directory and renamed into place when it is whole, so a killed or
failed attempt leaves nothing that could be taken for a data set.
"""

import contextlib
import dataclasses
import fcntl
import io
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, track

from vit_jax.data import cifar, download, folder, images, tfds
from vit_jax.errors import UserError

Record = tuple[int | str, dict[str, Any]]  # (unique key, features)
_READ_AHEAD = 512  # images


@dataclasses.dataclass(frozen=True, kw_only=True)
class Content:
  """What to write."""

  name: str
  version: str
  description: str
  homepage: str | None
  features: dict[str, Any]  # name -> TFDS feature
  splits: dict[str, Callable[[], Iterator[Record]]]
  shuffle: bool  # by a hash of the keys, TFDS's way; else in the order given


@contextlib.contextmanager
def staged(name: str, version: str, out: Path) -> Iterator[Path]:
  """Gives an empty directory that becomes OUT/NAME/VERSION if the block ends well.

  Raises:
    UserError: another process prepares the same set, or the disk is full or not writable.
  """
  stage = out / f".preparing-{name.replace('/', '-')}"
  try:
    stage.mkdir(parents=True, exist_ok=True)
    lock = os.open(stage, os.O_RDONLY)  # the kernel lets go of it when the process ends
    try:
      try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except OSError:
        raise UserError(f"{out}: another process is preparing {name}: wait for it") from None
      try:
        for path in stage.iterdir():  # of a killed attempt
          shutil.rmtree(path)
        yield stage
        target = out / name / version
        target.parent.mkdir(parents=True, exist_ok=True)
        (stage / name / version).rename(target)
      finally:
        shutil.rmtree(stage, ignore_errors=True)
    finally:
      os.close(lock)
  except OSError as e:
    raise UserError(f"cannot write {e.filename or out}: {e.strerror or e}") from e


def write(content: Content, out: Path, check: Callable[[], None] = lambda: None) -> Path:
  """Writes a set; `check` may raise a UserError to give it up when all has been read.

  Returns:
    OUT/NAME/VERSION.
  """
  lib = tfds.library()
  lib.disable_progress_bar()  # ours counts images

  def info(self: Any) -> Any:
    return lib.core.DatasetInfo(
      builder=self,
      description=content.description,
      homepage=content.homepage,
      features=lib.features.FeaturesDict(content.features),
      supervised_keys=("image", "label"),
      disable_shuffling=not content.shuffle,
    )

  # A class of its own for each set, because TFDS takes the name from the class.
  builder_class = type(
    content.name,
    (lib.core.GeneratorBasedBuilder,),
    {
      "name": content.name,
      "VERSION": lib.core.Version(content.version),
      "_info": info,
      "_split_generators": lambda self, _: {s: make() for s, make in content.splits.items()},
      "_generate_examples": lambda self: None,  # abstract, and unused: the splits are iterators
      "__module__": __name__,
    },
    skip_registration=True,
  )
  with staged(content.name, content.version, out) as stage:
    builder = builder_class(data_dir=stage, file_format="array_record")
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS talks of the hidden directory
      builder.download_and_prepare(
        download_config=lib.download.DownloadConfig(try_download_gcs=False)
      )
    check()
  return out / content.name / content.version


def _bar(items: Any, total: int, what: str) -> Iterator[Any]:
  return iter(track(items, what, total, console=Console(stderr=True)))


def _report(done: Path) -> None:
  sizes = ", ".join(
    f"{s['name']} {sum(map(int, s['shardLengths'])):,}" for s in tfds.metadata(done)["splits"]
  )
  print(f"prepared {done} ({sizes})")


def _already(name: str, version: str, out: Path) -> bool:
  done = out / name / version
  if (done / tfds.INFO_FILE).is_file() and tfds.file_format(done) == "array_record":
    print(f"{done} is prepared already; delete it to prepare it again")
    return True
  return False


def prepare_cifar(
  name: str, out: Path, from_file: Path | None = None, any_checksum: bool = False
) -> None:
  """Prepares "cifar10" or "cifar100", from their home or from a downloaded archive.

  Raises:
    UserError: no connection, or another content than expected.
  """
  if _already(name, cifar.VERSION, out):
    return
  archive = cifar.ARCHIVES[name]
  path = from_file or out / "downloads" / archive.url.rsplit("/", 1)[1]
  if from_file is None:
    with Progress(console=Console(stderr=True)) as progress:
      task = progress.add_task(f"download {name}", total=None)
      download.fetch(
        archive.url,
        path,
        archive.sha256,
        lambda have, total: progress.update(task, completed=have, total=total),
      )
  elif not path.is_file():
    raise UserError(f"archive {path} is not there: download {archive.url}")
  elif not any_checksum and download.sha256(path) != archive.sha256:
    raise UserError(
      f"{path} is not the published {archive.url} (SHA-256 differs): download it "
      "again, or take it as it is with --any-checksum"
    )
  read = cifar.read(path, name)

  def records(split: str) -> Iterator[Record]:
    for i, (image, labels) in enumerate(
      _bar(read.examples(split), len(read.records[split]), f"write {name} {split}")
    ):
      # TFDS's own keys and ids, hence its order: train[:98%] is the same images for everyone.
      yield i, {"id": f"{split}_{i:05d}", "image": images.encode_png(image), **labels}

  lib = tfds.library()
  write(
    Content(
      name=name,
      version=cifar.VERSION,
      homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
      description=f"{name}: 32x32 colour images of {len(read.class_names['label'])} classes.",
      features={
        "id": lib.features.Text(),
        "image": lib.features.Image(shape=(32, 32, 3)),
        **{
          label: lib.features.ClassLabel(names=names) for label, names in read.class_names.items()
        },
      },
      splits={s: lambda s=s: records(s) for s in read.records},
      shuffle=True,
    ),
    out,
  )
  if from_file is None:
    path.unlink()
    with contextlib.suppress(OSError):  # not empty: it is not ours alone
      path.parent.rmdir()
  _report(out / name / cifar.VERSION)


def prepare_folder(
  root: Path, out: Path, name: str | None = None, skip_corrupt: bool = False
) -> None:
  """Prepares an image folder; see `folder.scan` for the layouts. Files keep their encoding.

  Raises:
    UserError: the layout is not known, or images are corrupt (each is listed on stderr).
  """
  layout = folder.scan(root)
  name = name or re.sub(r"\W+", "_", root.resolve().name.lower()).strip("_")
  if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
    raise UserError(f"{name!r} cannot name a data set: give one of a-z, 0-9 and _ with --name")
  version = "1.0.0"
  if _already(name, version, out):
    return
  corrupt: list[str] = []

  def load(path: Path) -> bytes | str:
    data = path.read_bytes()
    try:
      image = images.decode(data)
    except ValueError as e:
      return f"{path} ({e})"
    # Readers of TFDS know JPEG and PNG.
    return data if data[:2] == b"\xff\xd8" or data[:4] == b"\x89PNG" else images.encode_png(image)

  def loaded(files: list[tuple[Path, int]]) -> Iterator[tuple[Path, int, bytes | str]]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
      for i in range(0, len(files), _READ_AHEAD):
        part = files[i : i + _READ_AHEAD]
        data = pool.map(load, [path for path, _ in part])
        yield from ((path, label, d) for (path, label), d in zip(part, data, strict=True))

  def records(split: str) -> Iterator[Record]:
    files = layout.splits[split]
    for i, (path, label, data) in enumerate(_bar(loaded(files), len(files), f"write {split}")):
      if isinstance(data, str):
        corrupt.append(data)
        print(f"corrupt image {data}", file=sys.stderr)
      else:
        yield i, {"image": data, "label": label, "file_name": path.relative_to(root).as_posix()}

  def check() -> None:
    if corrupt and not skip_corrupt:
      raise UserError(
        f"{len(corrupt)} corrupt image(s), the first is {corrupt[0]}: replace or "
        "delete them, or leave them out with --skip-corrupt"
      )

  lib = tfds.library()
  done = write(
    Content(
      name=name,
      version=version,
      homepage=None,
      description=f"The image folder {root.resolve().name}.",
      features={
        "image": lib.features.Image(shape=(None, None, 3)),
        "label": lib.features.ClassLabel(names=list(layout.class_names)),
        "file_name": lib.features.Text(),
      },
      splits={s: lambda s=s: records(s) for s in layout.splits},
      shuffle=False,
    ),
    out,
    check,
  )
  _report(done)
  if corrupt:
    print(f"left out {len(corrupt)} corrupt image(s), listed above")
