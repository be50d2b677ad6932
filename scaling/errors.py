"""The one exception that the commands turn into a single line on stderr."""

import difflib
from collections.abc import Iterable


class DataError(ValueError):
  """Something in the user's data or options that the user can mend."""


def nearest(name: str, known: Iterable[str]) -> str:
  """Returns ", did you mean 'x'?" when `known` holds a similar name, else an empty string."""
  close = difflib.get_close_matches(name, list(known), n=1)
  return f", did you mean {close[0]!r}?" if close else ""
