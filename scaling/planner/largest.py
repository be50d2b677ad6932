"""The largest batch that fits."""

from __future__ import annotations

import bisect
from collections.abc import Generator

# 1, 2, 3, 4, 6, 8, 12, …: powers of two and what is half-way.
BATCHES = (1, 2, *(n for k in range(1, 13) for n in (3 * 2 ** (k - 1), 2 ** (k + 1))))


def search(first: int) -> Generator[int, bool, int]:
  """Looks for the largest of `BATCHES` that fits, asking as little as it can.

  Args:
    first: the best guess; 0: that none does.

  Yields:
    A batch to try; it is to be sent whether that fits.

  Returns:
    The largest that fits; 0: none does.
  """
  at = max(0, bisect.bisect_right(BATCHES, first) - 1)
  low, high = -1, len(BATCHES)  # fits; does not fit
  while high - low > 1:
    if (yield BATCHES[at]):
      low, at = at, at + 1
    else:
      high, at = at, at - 1
    if low > -1 and high < len(BATCHES):
      at = (low + high) // 2
  return BATCHES[low] if low >= 0 else 0
