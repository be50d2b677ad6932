"""The one exception that means: the user can mend this."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
  """A mistake in a config, a flag, a file or a data set.

  Its message is one line that says what is wrong, where, and what to do. The commands print
  that line without a traceback and exit with status 2.
  """


def unknown(kind: str, name: object, known: Iterable[str]) -> UserError:
  """Returns the error for a name that is not among `known`: the nearest one, or all of them."""
  known = sorted(known)
  near = difflib.get_close_matches(str(name), known, n=1)
  hint = f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(known)}"
  return UserError(f"unknown {kind} '{name}': {hint}")
