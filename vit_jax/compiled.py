"""What a compiled program needs: memory, and on TPUs the compiler's estimate of its cycles."""

import re
from typing import Any

import jax


def peak_bytes(compiled: jax.stages.Compiled) -> int | None:
  """Returns the bytes of a device that one call needs, arguments and results included.

  An argument that is donated counts once. None where the backend does not tell.
  """
  memory = compiled.memory_analysis()
  if memory is None:
    return None
  return (
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
    + memory.temp_size_in_bytes
  )


_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{\s*")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_BOUND = re.compile(r"s32\[\]\S* constant\((\d+)\)")


def _named(attribute: str, line: str) -> str | None:
  found = re.search(rf"\b{attribute}=%?([\w.\-]+)", line)
  return found and found[1]


class _Program:
  """The computations of an optimised HLO module, by name, each a list of lines."""

  def __init__(self, text: str) -> None:
    self.computations: dict[str, list[str]] = {}
    self.entry, lines = "", []
    for line in text.splitlines():
      head = None if line.startswith(" ") else _COMPUTATION.fullmatch(line)
      if head:
        lines = self.computations.setdefault(head[2], [])
        self.entry = head[2] if head[1] else self.entry
      else:
        lines.append(line)

  def trips(self, condition: str) -> int:
    """Returns how often a loop runs that counts from 0 up to a constant of its condition."""
    most = 1
    for line in self.computations[condition]:
      most = max(most, *map(int, _BOUND.findall(line)), 1)
      inner = _named("calls", line)
      most = max(most, self.trips(inner)) if inner else most
    return most

  def cycles(self, name: str) -> int:
    """Returns the estimate for one call of a computation."""
    total = 0
    for line in self.computations[name]:
      found = _CYCLES.search(line)
      total += int(found[1]) if found else 0
      if " while(" in line:
        total += self.trips(_named("condition", line)) * self.cycles(_named("body", line))
      elif " call(" in line:
        total += self.cycles(_named("to_apply", line))
      elif branches := re.search(r" conditional\(.*branch_computations=\{([^}]*)\}", line):
        total += max(self.cycles(b.strip().lstrip("%")) for b in branches[1].split(","))
    return total


def tpu_cycles(compiled: jax.stages.Compiled) -> int:
  """Returns the TPU compiler's estimate of the cycles of one call.

  The sum over the fused operations, those in a loop times its trips. The module's own
  `optimal_seconds` counts the body of a loop once, or negatively. What is left out: waiting for
  other devices and for memory that the compiler believes to be hidden.

  Args:
    compiled: for a TPU; other backends tell nothing, which makes 0.
  """
  text: Any = compiled.as_text()
  program = _Program(text)
  return program.cycles(program.entry)
