"""A run directory belongs to one process and to one config."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import ml_collections

from vit_jax import config as config_lib
from vit_jax import parallel
from vit_jax.errors import UserError

CONFIG_FILE = "config.json"
_LOCK_FILE = ".lock"


class Locked(UserError):
  """Another live process works in this run directory."""


@contextmanager
def lock(directory: Path) -> Iterator[None]:
  """Holds a run directory; the kernel lets go when the process ends, however it ends.

  In a run of several processes the first one holds it for all.

  Raises:
    Locked: another process holds it.
    UserError: the directory cannot be made or written.
  """
  fd, problem = None, None
  if jax.process_index() == 0:
    try:
      directory.mkdir(parents=True, exist_ok=True)
      fd = os.open(directory / _LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as e:
      problem = f"cannot write to run directory {directory} ({e.strerror}): give another --workdir"
  if not parallel.all_agree(problem is None):
    raise UserError(problem or f"process 0 cannot write to run directory {directory}")
  try:
    held = fd is None or _try_lock(fd)
    if not parallel.all_agree(held):
      owner = "" if fd is None else os.read(fd, 64).decode().strip()
      raise Locked(
        f"{directory} is in use by another process ({owner or 'unknown'}): wait for "
        "it, stop it, or give another --workdir"
      )
    yield
  finally:
    if fd is not None:
      os.close(fd)


def _try_lock(fd: int) -> bool:
  try:
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  os.ftruncate(fd, 0)
  os.pwrite(fd, f"pid {os.getpid()} on {os.uname().nodename}\n".encode(), 0)
  return True


def holder(directory: Path) -> str | None:
  """Returns which live process holds a run directory, such as "pid 7 on host"; None: none does."""
  path = directory / _LOCK_FILE
  if not path.exists():
    return None
  fd = os.open(path, os.O_RDONLY)
  try:
    fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
  except BlockingIOError:
    return os.read(fd, 64).decode().strip() or "unknown"
  finally:
    os.close(fd)
  return None


def write_atomically(path: Path, text: str) -> None:
  """Replaces a file so that a crash leaves either the old or the new one, whole."""
  temporary = path.with_name(path.name + ".tmp")
  with temporary.open("w") as f:
    f.write(text)
    f.flush()
    os.fsync(f.fileno())
  temporary.replace(path)


def check_config(directory: Path, config: ml_collections.ConfigDict) -> None:
  """Refuses to continue a run under a config that describes another one.

  Raises:
    UserError: names every key that differs from the run's config.json.
  """
  path = directory / CONFIG_FILE
  if not path.exists():
    return
  try:
    old = json.loads(path.read_text())
  except json.JSONDecodeError as e:
    raise UserError(f"{path} is not JSON ({e.msg}): restore it, or use a new --workdir") from e
  changed = config_lib.differences(old, config_lib.to_json(config))
  if changed:
    raise UserError(
      f"{directory} holds a run with another config; it differs in "
      f"{'; '.join(changed)} (old -> new). Restore these values, or use a new "
      "--workdir"
    )


def write_config(directory: Path, config: ml_collections.ConfigDict) -> None:
  """Writes the resolved config beside the run (process 0)."""
  if jax.process_index() != 0:
    return
  text = json.dumps(config_lib.to_json(config), indent=2) + "\n"
  path = directory / CONFIG_FILE
  if not path.exists() or path.read_text() != text:
    write_atomically(path, text)
