"""What a person sees of a sweep: a live table in a terminal, plain lines in a log."""

from __future__ import annotations

import collections
import contextlib
import os
import sys
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from scaling.launch.local import (
  BLOCKED,
  DONE,
  ELSEWHERE,
  FAILED,
  RUNNING,
  SKIPPED,
  STOPPED,
  WAITING,
  Entry,
)
from vit_jax.progress import seconds

_STYLES = {
  RUNNING: "bold",
  ELSEWHERE: "bold",
  DONE: "green",
  SKIPPED: "dim green",
  FAILED: "bold red",
  BLOCKED: "red",
  STOPPED: "yellow",
  WAITING: "dim",
}
_FIRST = (RUNNING, ELSEWHERE, FAILED, BLOCKED, STOPPED, WAITING, DONE, SKIPPED)
_REFRESH = 0.5  # seconds between two looks of the live table
_LINES_EVERY = 30.0  # seconds between the lines about a running job in a log


class _Console(Console):
  def on_broken_pipe(self) -> None:
    """Raises the BrokenPipeError that it is called for; rich's own would exit."""
    raise


class Display:
  """Shows entries on stderr; to be called with them often, within its `with` block."""

  def __init__(self, console: Console | None = None) -> None:
    """Shows on stderr, or where a test looks."""
    self._console = console or _Console(stderr=True)
    self._live: Live | None = None
    if self._console.is_terminal:
      self._live = Live(console=self._console, auto_refresh=False, transient=True)
    self._last = -_REFRESH
    self._states: dict[str, str] = {}
    self._told: dict[str, float] = {}

  def __enter__(self) -> Self:
    """Begins the live table."""
    if self._live:
      self._live.start()
    return self

  def __exit__(
    self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
  ) -> None:
    """Takes it away."""
    if self._live:
      with contextlib.suppress(OSError):  # there is no terminal any longer
        self._live.stop()

  def __call__(self, entries: Sequence[Entry]) -> None:
    """Shows how things are.

    Raises:
      OSError: stderr cannot be written.
    """
    if not self._live:
      self._lines(entries)
    elif time.monotonic() - self._last > _REFRESH:
      self._last = time.monotonic()
      rows = max(5, self._console.height - 7)
      self._live.update(table(entries, rows), refresh=True)

  def _lines(self, entries: Sequence[Entry]) -> None:
    now = time.monotonic()
    for entry in entries:
      label = entry.job.label
      if self._states.get(label, WAITING) != entry.state:
        self._states[label], self._told[label] = entry.state, now
        where = f"  log {entry.job.log}" if entry.state == RUNNING else ""
        if entry.state != SKIPPED:  # they may be many
          _print(f"{label}  {entry.state}{where}")
      elif entry.state == RUNNING and now - self._told[label] > _LINES_EVERY:
        self._told[label] = now
        step, loss, rate, eta = _cells(entry)
        _print(f"{label}  {step}" + (f"  loss {loss}  {rate} images/s  ETA {eta}" if loss else ""))


def _print(text: str) -> None:
  print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


def _cells(entry: Entry) -> tuple[str, str, str, str]:
  """Returns step, loss, images/s and ETA of an entry, as far as they are known."""
  stop = entry.job.stop
  if entry.state in (DONE, SKIPPED):
    return f"{stop:,}/{stop:,}", "", "", ""
  p = entry.progress()
  if p is not None:
    return f"{p.step:,}/{stop:,}", p.loss, p.rate, p.eta
  spent = f"starts, {seconds(time.monotonic() - entry.since)}" if entry.process else ""
  return spent or f"{entry.job.reached():,}/{stop:,}", "", "", ""


def conclude(lines: Iterable[str]) -> None:
  """Prints the last lines of all, as far as anybody reads them: no error is left to come."""
  with contextlib.suppress(OSError):
    print("\n".join(lines))
  for stream in (sys.stdout, sys.stderr):
    try:
      stream.flush()
    except OSError:  # Python would try again when it ends, and exit with a status of its own
      with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def counts(entries: Iterable[Entry]) -> str:
  """Returns how many entries are in which state, such as "2 running, 5 waiting"."""
  number = collections.Counter(e.state for e in entries)
  return ", ".join(f"{number[state]} {state}" for state in _FIRST if number[state])


def table(entries: Sequence[Entry], rows: int) -> Table:
  """Returns the table of entries; of more than `rows`, those that matter most."""
  out = Table(title=counts(entries), title_justify="left")
  for heading in ("run", "state", "step", "loss", "images/s", "ETA"):
    out.add_column(heading, justify="left" if heading in ("run", "state") else "right")
  shown = list(entries)
  if len(shown) > rows:
    chosen = sorted(range(len(shown)), key=lambda i: (_FIRST.index(shown[i].state), i))[:rows]
    shown = [shown[i] for i in sorted(chosen)]
  for entry in shown:
    out.add_row(entry.job.label, entry.state, *_cells(entry), style=_STYLES[entry.state])
  if len(shown) < len(entries):
    out.caption = f"and {len(entries) - len(shown)} more"
  return out
