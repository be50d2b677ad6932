"""Arrays whose memory is used again as soon as nobody holds them.

The system hands out large blocks page by page, and zeroes them: for a batch of photographs that
takes longer than writing the batch.
"""

from collections import defaultdict

import numpy as np

_Key = tuple[tuple[int, ...], np.dtype]


class Recycler:
  """Gives out arrays; an array's memory comes back when it and all views of it are gone."""

  def __init__(self) -> None:
    self._free: defaultdict[_Key, list[np.ndarray]] = defaultdict(list)

  def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Returns an array of any content; safe to call from several threads."""
    free = self._free[shape, np.dtype(dtype)]
    try:
      memory = free.pop()
    except IndexError:
      memory = np.empty(shape, dtype)
    return np.asarray(_Loan(memory, free))


class _Loan:
  """The base of an array given out, which NumPy, and JAX while it copies, keep alive with it."""

  def __init__(self, memory: np.ndarray, free: list[np.ndarray]) -> None:
    self.__array_interface__ = memory.__array_interface__
    self._memory, self._free = memory, free

  def __del__(self) -> None:
    self._free.append(self._memory)
