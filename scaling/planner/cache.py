"""What has been compiled already: JSON lines that several processes may append to."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from scaling.errors import DataError

Record = dict[str, Any]


class Cache:
  """Records by key, in a file that outlives crashes.

  A record is appended as one line under a lock, and synced; a line that a crash has cut short is
  passed over, and the next record begins on a line of its own. Of two records of one key the later
  one holds.
  """

  def __init__(self, path: Path) -> None:
    """Reads what is there.

    Raises:
      DataError: the file cannot be read, or its directory cannot be made.
    """
    self.path = path
    self._records: dict[str, Record] = {}
    self._position = 0
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      self.refresh()
    except OSError as e:
      raise DataError(f"{path}: {e.strerror}; give another --out") from None

  def __len__(self) -> int:
    """Returns the number of keys."""
    return len(self._records)

  def get(self, key: str) -> Record | None:
    """Returns the record of a key, None where there is none."""
    return self._records.get(key)

  def records(self) -> list[Record]:
    """Returns the records of all keys, in the order in which the keys came."""
    return list(self._records.values())

  def refresh(self) -> None:
    """Reads what other processes have added."""
    if not self.path.exists():
      return
    with self.path.open("rb") as file:
      file.seek(self._position)
      text = file.read()
    whole = text.rfind(b"\n") + 1
    self._position += whole
    for line in text[:whole].splitlines():
      try:
        record = json.loads(line)
        self._records[record["key"]] = record
      except (ValueError, KeyError, TypeError):
        continue  # cut short by a crash

  def add(self, record: Record) -> None:
    """Appends a record, which has its `key`.

    Raises:
      DataError: it cannot be written.
    """
    line = json.dumps(record, sort_keys=True).encode() + b"\n"
    try:
      with self.path.open("ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = file.seek(0, os.SEEK_END)
        if end:
          file.seek(end - 1)
          line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
    except OSError as e:
      raise DataError(f"{self.path}: {e.strerror}; nothing that is written is lost") from None
    self._records[record["key"]] = record
