"""What the log of a job tells while it trains, and after it has failed."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

# A line of `vit_jax.progress.Reporter`.
_LINE = re.compile(
  r"  (?P<step>\d+)/\d+  loss (?P<loss>\S+)  .*?(?P<rate>\S+) images/s.*?  ETA (?P<eta>\S+)"
)
_TAIL = 16_384  # bytes


@dataclasses.dataclass(frozen=True)
class Progress:
  """The last line of progress, as it was written."""

  step: int
  loss: str
  rate: str  # images/s
  eta: str


def progress(log: Path, begin: int = 0) -> Progress | None:
  """Returns what a log says last of training; None: nothing since its byte `begin`."""
  found = list(_LINE.finditer(_tail(log, begin)))
  if not found:
    return None
  m = found[-1]
  return Progress(int(m["step"]), m["loss"], m["rate"], m["eta"])


def last_lines(log: Path, count: int, begin: int = 0) -> list[str]:
  """Returns the last lines that are not empty; of an "error: …" at the end that one alone."""
  lines = [line.rstrip() for line in _tail(log, begin).splitlines() if line.strip()]
  if lines and lines[-1].startswith("error: "):
    return lines[-1:]
  return lines[-count:]


def _tail(log: Path, begin: int) -> str:
  try:
    with log.open("rb") as f:
      size = f.seek(0, 2)
      f.seek(max(begin, size - _TAIL))
      return f.read().decode(errors="replace")
  except OSError:  # there is none yet, or the disk does not answer
    return ""
