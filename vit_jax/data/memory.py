"""Small data sets, decoded once and kept in memory."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from vit_jax.data.sources import ArraySource, Source

# Bytes of decoded images up to which a set is kept unless told otherwise: CIFAR-10 has 154 MB,
# Tiny-ImageNet 1.2 GB, ImageNet at its own sizes 640 GB.
LIMIT = 2 * 2**30
_SAMPLE = 16
_CHUNK = 1024


def decoded_bytes(source: Source) -> int:
  """Estimates the size of all decoded images from a few."""
  indices = np.linspace(0, len(source) - 1, min(_SAMPLE, len(source))).astype(int)
  images, _ = source.read(indices)
  return int(np.mean([image.nbytes for image in images]) * len(source))


def cached(source: Source, cache: bool | None = None, num_threads: int = 1) -> Source:
  """Returns the source, decoded into memory where that is wanted.

  The copy is kept on the source: further calls with the same source, such as those of the branches
  of a trunk, get it at once.

  Args:
    source: any source.
    cache: whether to; None: if its images take at most LIMIT bytes.
    num_threads: that decode.

  Raises:
    UserError: an example cannot be read.
  """
  if isinstance(source, ArraySource) or cache is False:
    return source
  copy = getattr(source, "_memory", None)
  if copy is None and (cache or decoded_bytes(source) <= LIMIT):
    copy = _decode(source, max(num_threads, 1))
    source._memory = copy
  return copy or source


def _decode(source: Source, num_threads: int) -> ArraySource:
  (first,), _ = source.read([0])
  array = np.empty((len(source), *first.shape), np.uint8)  # takes memory only where it is filled

  def fill(start: int) -> tuple[list[np.ndarray] | np.ndarray, np.ndarray]:
    stop = min(start + _CHUNK, len(source))
    images, labels = source.read(range(start, stop))
    if {image.shape for image in images} == {first.shape}:
      array[start:stop] = images
      images = array[start:stop]
    return images, labels

  with ThreadPoolExecutor(num_threads) as pool:
    parts = list(pool.map(fill, range(0, len(source), _CHUNK)))
  labels = np.concatenate([part for _, part in parts])
  if all(isinstance(images, np.ndarray) for images, _ in parts):
    return ArraySource(source.info, array, labels)
  return ArraySource(source.info, [image for images, _ in parts for image in images], labels)
