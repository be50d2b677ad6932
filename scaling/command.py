"""What the commands share: help that teaches by examples, and mistakes in one line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from scaling.errors import DataError
from vit_jax.errors import UserError


class Parser(argparse.ArgumentParser):
  """An argument parser whose mistakes are `DataError`s and whose examples keep their lines."""

  def __init__(self, module: str, description: str, examples: str) -> None:
    super().__init__(
      prog=f"python -m {module}",
      description=description,
      epilog=f"examples:\n{examples}",
      formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    self.module = module

  def error(self, message: str) -> NoReturn:
    raise DataError(f"{message} (--help lists the options)")


def run(
  parser: Parser, work: Callable[[argparse.Namespace], None], argv: Sequence[str] | None
) -> int:
  """Parses the arguments and does the work; returns the exit status, 2 after a mistake."""
  try:
    work(parser.parse_args(argv))
    sys.stdout.flush()
  except BrokenPipeError:  # whoever reads has seen enough, as `| head` has; nor is it tried again
    with open(os.devnull, "wb") as nowhere:
      os.dup2(nowhere.fileno(), sys.stdout.fileno())
  except (DataError, UserError) as error:
    print(f"{parser.module}: {error}", file=sys.stderr)
    return 2
  return 0
