"""Compiles cells in a process of its own: requests come on stdin, results go to stdout.

One JSON object a line, `pool.request` and what `compile_cell` returns. A compiler that crashes
takes nothing but this process with it, and memory that it does not give back ends with it.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from typing import Any

import jax

from scaling.planner import plan, topology
from scaling.planner.grid import Cell
from vit_jax import ahead, compiled
from vit_jax.errors import UserError

# Whatever the compiler says of a program that is too large, with the memory of both.
_WANTED = (
  re.compile(r"total memory required\D*\(([\d.]+)([KMGT]?)\) exceeds available HBM"),
  re.compile(r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm"),
  re.compile(r"[Oo]ut of memory.* allocate ([\d.]+)([KMGT]?)i?B"),
)
_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def wanted_bytes(message: str) -> int | None:
  """Returns the bytes that a compiler which ran out of memory would have needed, if it says so."""
  for pattern in _WANTED:
    if match := pattern.search(message):
      return round(float(match[1]) * 1024 ** _UNITS[match[2]])
  return None


def compile_cell(request: plan.Plan, cell: Cell) -> dict[str, Any]:
  """Compiles the train step of a cell.

  Returns:
    "hbm" bytes per device (None: not told), "cycles" (None: no TPU) and "seconds" that it took;
    with "oom" true where the compiler refused. Or "error", one line, and "invalid" true where it
    is the job that refuses the cell: it could not run on any device.
  """
  where = topology.find(cell.setting.topology)
  begin = time.perf_counter()
  try:
    config = request.config(cell)
    if where.compiler == "tpu":
      target = ahead.tpu_devices(cell.setting.topology)
    else:
      target = jax.devices(cell.setting.topology)
    try:
      lowered = ahead.build(config, target, request.classes).lower()
    except UserError as e:
      return {"error": _line(e), "invalid": True}
    jax.clear_caches()
    try:
      program = lowered.compile()
    except jax.errors.JaxRuntimeError as e:
      if "RESOURCE_EXHAUSTED" not in str(e):
        raise
      result = {"hbm": wanted_bytes(str(e)), "cycles": None, "oom": True}
    else:
      cycles = compiled.tpu_cycles(program) if where.is_tpu else None
      result = {"hbm": compiled.peak_bytes(program), "cycles": cycles, "oom": False}
  except (UserError, ValueError, TypeError, RuntimeError) as e:
    return {"error": _line(e)}
  return {**result, "seconds": round(time.perf_counter() - begin, 1)}


def _line(error: Exception) -> str:
  return (str(error).strip().splitlines() or [type(error).__name__])[0][:500]


def _end_with(parent: int) -> None:
  """Ends this process, in the middle of a compilation too, when the one that asks has died."""
  while os.getppid() == parent:
    time.sleep(1)
  os._exit(1)


def main() -> None:
  """Serves requests until stdin ends."""
  threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
  answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
  os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # libraries print what is no answer
  for line in sys.stdin:
    fields = json.loads(line)
    request = plan.Plan(fields["path"], tuple(fields["overrides"]), fields["classes"])
    result = compile_cell(request, Cell.of_json(fields["cell"]))
    print(json.dumps(result), file=answers, flush=True)


if __name__ == "__main__":
  main()
