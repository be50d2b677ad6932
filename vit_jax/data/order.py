"""The order of the examples in a run, as a function of (seed, position)."""

from functools import lru_cache

import numpy as np

from vit_jax.data.uniforms import bits

_STREAM = 2**32 - 1  # no operation of a transform has this number


def repeated(positions: np.ndarray, batch_size: int, repeats: int) -> np.ndarray:
  """Returns the place in the order of the example at each position, so that batches repeat some.

  Repeated augmentation (Hoffer et al. 2019, arXiv:1901.09335, as Touvron et al. 2020,
  arXiv:2012.12877, train DeiT): a batch has d = ceil(batch_size / repeats) different examples, each
  `repeats` times, or once less for the last few where batch_size is no multiple. Every position
  augments its example differently. The copies are d rows apart, so that those who share a device,
  or are neighbours when images are mixed, are mostly different ones. The examples still come in
  the order of their epochs, d a batch: an epoch takes `repeats` times as many steps.

  Args:
    positions: integers [n] in the run, step * batch_size + place in the batch.
    batch_size: over all processes.
    repeats: copies of an example in a batch, 1 to batch_size.

  Returns:
    Integers [n]; the positions themselves for repeats = 1.
  """
  different = -(-batch_size // repeats)
  steps, places = np.divmod(positions, batch_size)
  return steps * different + places % different


class Order:
  """Shuffles every epoch anew, each example once in it.

  Grain's `shuffle` computes one index at a time, which takes longer than cropping and flipping the
  image; this takes 8 bytes an example for each of two epochs instead. Sorting hashes, not
  `numpy.random`, so that a run resumed under another NumPy keeps its order.
  """

  def __init__(self, size: int, seed: int) -> None:
    self._size = size
    self._seed = seed
    self._epoch = lru_cache(maxsize=2)(self._shuffle)  # a batch may span two

  def _shuffle(self, epoch: int) -> np.ndarray:
    """Returns the indices of one epoch, int64 [size]."""
    keys = bits(self._seed, _STREAM, epoch * self._size + np.arange(self._size), 1)[:, 0]
    return np.argsort(keys, kind="stable")

  def __call__(self, positions: np.ndarray) -> np.ndarray:
    """Returns the index of the example at each position; [n] integers for [n] integers."""
    epochs, within = np.divmod(positions, self._size)
    indices = np.empty(len(positions), np.int64)
    for epoch in np.unique(epochs):
      at = epochs == epoch
      indices[at] = self._epoch(int(epoch))[within[at]]
    return indices
