"""Worker processes that compile cells, one each at a time."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent import futures
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from scaling.planner.grid import Cell
from scaling.planner.plan import Plan

_ROOT = Path(__file__).resolve().parents[2]
_COMMAND = (sys.executable, "-m", "scaling.planner.worker")


class Pool:
  """Compiles cells in up to `jobs` processes; leaving it, however, ends them.

  Attributes:
    jobs: processes at once.
  """

  def __init__(self, plan: Plan, jobs: int, timeout: float) -> None:
    """Starts nothing yet.

    Args:
      plan: whose cells.
      jobs: processes at once.
      timeout: seconds that one compilation may take.
    """
    self._plan, self.jobs, self._timeout = plan, jobs, timeout
    self._workers: list[_Worker] = []
    self._own = threading.local()
    self._threads = futures.ThreadPoolExecutor(jobs)

  def __enter__(self) -> Self:
    """Does nothing."""
    return self

  def __exit__(
    self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
  ) -> None:
    """Ends what is running."""
    self._threads.shutdown(wait=False, cancel_futures=True)
    for worker in self._workers:
      worker.end()
    self._threads.shutdown()

  def compile(self, cells: Sequence[Cell]) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Yields each cell with what `worker.compile_cell` returns, as they get done."""
    running = {self._threads.submit(self._compile, cell): cell for cell in cells}
    for future in futures.as_completed(running):
      yield running[future], future.result()

  def _compile(self, cell: Cell) -> dict[str, Any]:
    if not hasattr(self._own, "worker"):
      self._own.worker = _Worker()
      self._workers.append(self._own.worker)
    fields = {**dataclasses.asdict(self._plan), "cell": cell.to_json()}
    return self._own.worker.ask(json.dumps(fields), self._timeout)


class _Worker:
  """One process, started when it is first asked and again after it has died."""

  def __init__(self) -> None:
    self._process: subprocess.Popen[str] | None = None
    self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  (lives as long as the worker)
    self._lock, self._ended = threading.Lock(), False

  def _start(self) -> subprocess.Popen[str]:
    self._log.seek(0)
    self._log.truncate()
    path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
      _COMMAND,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=self._log,
      text=True,
      env={**os.environ, "PYTHONPATH": path, "TPU_LIBRARY_LOG_LEVEL": "3"},
      start_new_session=True,  # a Ctrl-C is for the command, which then ends its workers
    )

  def ask(self, line: str, timeout: float) -> dict[str, Any]:
    """Sends a request and returns the answer, or what became of the process as an "error"."""
    with self._lock:
      if self._ended:
        return {"error": "interrupted"}
      if self._process is None or self._process.poll() is not None:
        self._process = self._start()
    process, late = self._process, threading.Event()

    def stop() -> None:
      late.set()
      process.kill()

    timer = threading.Timer(timeout, stop)
    timer.start()
    try:
      process.stdin.write(line + "\n")
      process.stdin.flush()
      answer = process.stdout.readline()
    except OSError:
      answer = ""
    finally:
      timer.cancel()
    if answer:
      return json.loads(answer)
    process.wait()
    if late.is_set():
      return {"error": f"took more than {timeout:.0f} s (--timeout)"}
    self._log.seek(0)
    last = [text for text in self._log.read().splitlines() if text.strip()][-1:]
    return {"error": f"the compiler crashed with status {process.returncode}: {''.join(last)}"}

  def end(self) -> None:
    """Kills the process for good."""
    with self._lock:
      self._ended = True
      if self._process is not None:
        self._process.kill()
        self._process.wait()
