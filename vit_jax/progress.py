"""What a person sees while a model trains: a live bar in a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from types import TracebackType
from typing import Any, Self, TypeVar

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.progress import track as rich_track


def seconds(value: float) -> str:
  """Returns a duration such as 4.2s, 42s, 3m05s or 2h10m."""
  if value < 9.95:
    return f"{value:.1f}s"
  value = round(value)
  if value < 60:
    return f"{value}s"
  if value < 3600:
    return f"{value // 60}m{value % 60:02d}s"
  return f"{value // 3600}h{value % 3600 // 60:02d}m"


def si(value: float, unit: str = "") -> str:
  """Returns a number with three digits and an SI prefix: 5.72 M, 35.1 G, 21.4 m."""
  for factor, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
    if abs(value) >= factor:
      return f"{value / factor:.3g} {prefix}{unit}"
  return f"{value:.3g} {unit}".rstrip()


def gib(value: float) -> str:
  """Returns bytes as KiB, MiB or GiB."""
  if value < 2**20:
    return f"{value / 2**10:.0f} KiB"
  return f"{value / 2**20:.0f} MiB" if value < 2**30 else f"{value / 2**30:.2f} GiB"


def print_once(text: str) -> None:
  """Prints on process 0."""
  if jax.process_index() == 0:
    print(text, flush=True)


@cache
def _console() -> Console:
  """Returns the one console of all bars: a bar within another's time then stands below it."""
  return Console(stderr=True)


_T = TypeVar("_T")
_LOG_EVERY = 30.0  # seconds between the lines that stand for a bar in a log
_NOTABLE_WAIT = 0.05  # share of the time that training waits for data, from which on it is shown


def track(items: Iterable[_T], name: str, total: int) -> Iterator[_T]:
  """Yields the items and shows on stderr how many of `total` have gone by (process 0 only)."""
  if jax.process_index() != 0:
    yield from items
    return
  if sys.stderr.isatty():
    yield from rich_track(items, name, total, console=_console(), transient=True)
    return
  last = time.perf_counter()
  for done, item in enumerate(items):
    if time.perf_counter() - last > _LOG_EVERY:
      last = time.perf_counter()
      print(f"{name}  {done}/{total}", file=sys.stderr, flush=True)
    yield item


class _Line:
  """One line on stderr that tells how far something has come: a bar where that is a terminal."""

  def __init__(self, name: str, total: int | None = None, done: int = 0, **options: Any) -> None:
    """Begins at `done` of `total`; options are those of rich's Progress."""
    self._name = name
    self._silent = jax.process_index() != 0
    self._bar = None
    if not self._silent and sys.stderr.isatty():
      self._bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=10),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[text]}"),
        console=_console(),
        transient=True,
        **options,
      )
      self._task = self._bar.add_task(name, total=total, completed=done, text="")

  def __enter__(self) -> Self:
    """Shows the bar."""
    if self._bar:
      self._bar.start()
    return self

  def __exit__(
    self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
  ) -> None:
    """Takes the bar away."""
    if self._bar:
      self._bar.stop()


class Bar(_Line):
  """Shows work of several kinds and lengths, one line for all (process 0 only)."""

  def __init__(self, name: str) -> None:
    """Begins a line that is called `name`."""
    super().__init__(name)
    self._last = time.perf_counter()

  def update(self, done: int, total: int, text: str) -> None:
    """Shows how much of what is done."""
    if self._bar:
      self._bar.update(self._task, completed=done, total=total, text=text)
    elif not self._silent and time.perf_counter() - self._last > _LOG_EVERY:
      self._last = time.perf_counter()
      print(f"{self._name}  {done}/{total}  {text}", file=sys.stderr, flush=True)


class Reporter(_Line):
  """Reports the steps of one segment of training (process 0 only; the others are silent)."""

  def __init__(self, name: str, start: int, stop: int) -> None:
    """Counts from step `start` to `stop`."""
    super().__init__(name, stop, start, redirect_stdout=sys.stdout.isatty())
    self._stop = stop

  def log(self, step: int, metrics: Mapping[str, float]) -> None:
    """Shows a line for the steps since the last one.

    Args:
      step: steps done.
      metrics: loss, learning_rate, and what `meter.Meter` reads.
    """
    loss, speed = f"loss {metrics['loss']:.4f}", [f"{metrics['images_per_second']:.0f} images/s"]
    if "mfu" in metrics:
      speed.append(f"MFU {metrics['mfu']:.0%}")
    if metrics["data_wait_share"] >= _NOTABLE_WAIT:
      speed.append(f"data {metrics['data_wait_share']:.0%}")
    peak = metrics.get("memory_peak_gib")
    memory = "" if peak is None else f"{peak:.{1 if peak < 10 else 0}f} GiB"
    if self._bar:
      self._bar.update(self._task, completed=step, text="  ".join([loss, *speed, memory]))
    elif not self._silent:
      rate = f"lr {metrics['learning_rate']:.1e}"
      eta = f"ETA {seconds((self._stop - step) * metrics['seconds_per_step'])}"
      words = [self._name, f"{step}/{self._stop}", loss, rate, *speed, eta, memory]
      print("  ".join(words), file=sys.stderr, flush=True)
