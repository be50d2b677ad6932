"""Batches: shuffled without end for training, every example once for evaluation.

The place of an example in a run is its position = step * batch_size + place in the batch. Order
and augmentation are functions of (seed, position) alone, so a resumed, forked or re-sharded run
sees what an uninterrupted one on a single process sees, whatever the number of threads.
"""

import math
import threading
from collections.abc import Callable, Iterator

import grain
import numpy as np

from vit_jax.data.memory import cached
from vit_jax.data.order import Order, repeated
from vit_jax.data.recycling import Recycler
from vit_jax.data.sources import ArraySource, Source
from vit_jax.data.transforms import Transform, different_sizes
from vit_jax.errors import UserError

Batch = dict[str, np.ndarray]

# Examples that a thread reads at a time: few enough that several threads share a large batch, that
# finished ones do not pile up, and that pixels stay in the processor's cache from one operation to
# the next; of small images enough that NumPy's overhead does not count.
_CHUNK = 128
_MEMORY_CHUNK = 1024
_CHUNK_BYTES = 4 * 2**20  # of pixels as they lie in the source
_LEAST = 8
_ALLOCATION = 31 * 2**20  # bytes; the C library of Linux learns from blocks below 32 MiB
_FOREVER = 2**40  # steps


def train_batches(
  source: Source,
  *,
  transforms: str,
  batch_size: int,
  seed: int,
  start_step: int = 0,
  process_index: int = 0,
  process_count: int = 1,
  num_threads: int = 2,
  cache: bool | None = None,
  repeats: int = 1,
) -> Iterator[Batch]:
  """Yields the batches of the steps start_step, start_step + 1, … without end.

  Every epoch visits each example once, in an order of its own; a batch may span two epochs.

  Args:
    source: the examples.
    transforms: see `vit_jax.data.transforms`.
    batch_size: examples a step, over all processes.
    seed: of order and augmentation, 0 <= seed < 2**32.
    start_step: the first step; the batch of a step is the same wherever an iterator starts.
    process_index: which part of every batch to return. Part i of n holds the rows
      [i * batch_size / n, (i + 1) * batch_size / n): joined in the order of the processes, the
      parts are the batch of a single process.
    process_count: number of parts.
    num_threads: that read and transform ahead of the consumer; 0 works in the caller's thread.
    cache: keep the decoded images in memory; None: where they fit, see `vit_jax.data.memory`.
    repeats: how many times a batch has each of its examples, see `vit_jax.data.order.repeated`.

  Returns:
    An iterator of {"image": float32 (or uint8) [b, H, W, C], "label": int32 [b]}.

  Raises:
    UserError: at once for arguments that do not fit, later for an example that cannot be read.
  """
  local = _local_size(batch_size, process_count)
  if not 0 <= seed < 2**32:
    raise UserError(f"seed={seed} must lie in 0..{2**32 - 1}")
  if not 1 <= repeats <= batch_size:
    raise UserError(f"repeats={repeats} must lie in 1..{batch_size}, the batch size")
  transform = Transform(transforms)
  source = _kept(source, transform, cache, num_threads)
  order = Order(len(source), seed)
  first = process_index * local

  def read(step: int, start: int, stop: int) -> Batch:
    begin = (start_step + step) * batch_size + first
    positions = np.arange(begin + start, begin + stop)
    images, labels = source.stored(order(repeated(positions, batch_size, repeats)))
    return {"image": transform(images, seed, positions), "label": labels}

  return _batches(read, local, _FOREVER, source, transforms, num_threads)


def eval_batches(
  source: Source,
  *,
  transforms: str,
  batch_size: int,
  process_index: int = 0,
  process_count: int = 1,
  num_threads: int = 2,
  cache: bool | None = None,
) -> Iterator[Batch]:
  """Yields every example exactly once over all processes, in the order of the source.

  All processes yield the same number of batches, ceil(n / batch_size), of the same shape. Rows
  past the end repeat the last example and have mask False.

  Args and errors: as for `train_batches`.

  Returns:
    An iterator of {"image": [b, H, W, C], "label": int32 [b], "mask": bool [b]}.
  """
  local = _local_size(batch_size, process_count)
  transform = Transform(transforms)
  source = _kept(source, transform, cache, num_threads)
  first = process_index * local

  def read(step: int, start: int, stop: int) -> Batch:
    begin = step * batch_size + first
    positions = np.arange(begin + start, begin + stop)
    images, labels = source.stored(np.minimum(positions, len(source) - 1))
    return {
      "image": transform(images, 0, positions),
      "label": labels,
      "mask": positions < len(source),
    }

  steps = math.ceil(len(source) / batch_size)
  return _batches(read, local, steps, source, transforms, num_threads)


def _kept(source: Source, transform: Transform, cache: bool | None, num_threads: int) -> Source:
  """Returns the source as `cached`, or as it is where the transform must see the files."""
  if transform.scaled and cache:
    raise UserError(
      f"transforms {transform.text!r} decode an image anew each time, as large as they need it, so "
      "it cannot be kept decoded: use cache=None, or leave out scaled"
    )
  return cached(source, False if transform.scaled else cache, num_threads)


def _local_size(batch_size: int, process_count: int) -> int:
  if batch_size < 1 or batch_size % process_count:
    near = max(1, round(batch_size / process_count)) * process_count
    raise UserError(
      f"batch_size={batch_size} is not divisible by {process_count} process(es): use "
      f"a multiple of {process_count}, such as {near}"
    )
  return batch_size // process_count


def _batches(
  read: Callable[[int, int, int], Batch],
  size: int,
  steps: int,
  source: Source,
  transforms: str,
  num_threads: int,
) -> Iterator[Batch]:
  """Has Grain's threads read the chunks (step, start, stop) ahead, and joins them to batches."""
  in_memory = isinstance(source, ArraySource)
  if in_memory:
    num_threads = min(num_threads, 1)  # indexing holds the interpreter lock: more only wait for it
  parts = math.ceil(size / _chunk_size(source, _MEMORY_CHUNK if in_memory else _CHUNK))
  bounds = np.linspace(0, size, parts + 1).astype(int).tolist()
  # The allocator of Linux gives memory back to the system at once, and pays for getting it again,
  # unless it has seen a large block come and go.
  np.empty(_ALLOCATION, np.uint8)
  batches: dict[int, Batch] = {}  # those that are being filled
  memory = Recycler()
  lock = threading.Lock()

  def chunk(number: int) -> Batch:
    step, k = divmod(number, parts)
    rows = read(step, bounds[k], bounds[k + 1])
    if parts == 1:
      return rows
    with lock:
      if step not in batches:
        batches[step] = {k: memory.empty((size, *x.shape[1:]), x.dtype) for k, x in rows.items()}
      batch = batches[step]
    for key, x in rows.items():
      if x.shape[1:] != batch[key].shape[1:]:
        raise different_sizes(transforms, {x.shape[1:], batch[key].shape[1:]})
      batch[key][bounds[k] : bounds[k + 1]] = x
    return batch

  chunks = (
    grain.MapDataset.range(steps * parts)
    .map(chunk)
    .to_iter_dataset(
      grain.ReadOptions(
        num_threads=num_threads,
        prefetch_buffer_size=max(2 * parts, num_threads) if num_threads else 0,
      )
    )
  )

  def join() -> Iterator[Batch]:
    iterator = iter(chunks)
    for step in range(steps):
      for _ in range(parts):
        batch = next(iterator)
      batches.pop(step, None)
      yield batch

  return join()


def _chunk_size(source: Source, most: int) -> int:
  """Returns how many examples of a source to work on at a time."""
  (image, *_), _ = source.stored([0])
  return min(max(_CHUNK_BYTES // math.prod(image.shape), _LEAST), most)
