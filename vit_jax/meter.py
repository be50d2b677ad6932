"""How fast training goes and what it uses, by the host's clock alone: nothing waits for devices."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax


def memory_peak() -> int | None:
  """Returns the most bytes in use until now: on the fullest local device, on a CPU by the process.

  None where neither the device nor the kernel tells.
  """
  stats = [device.memory_stats() for device in jax.local_devices()]
  if all(stats):
    return max(s.get("peak_bytes_in_use", s["bytes_in_use"]) for s in stats)
  status = Path("/proc/self/status")
  if status.exists():
    for line in status.read_text().splitlines():
      if line.startswith("VmHWM:"):
        return int(line.split()[1]) * 1024
  return None


class Meter:
  """Measures the steps of one segment of training, of one process."""

  def __init__(
    self, step: int, batch_size: int, flops: float = 0.0, peak: float | None = None
  ) -> None:
    """Starts the clock.

    Args:
      step: steps done.
      batch_size: images a step, over all devices.
      flops: of training on an image, as the model needs them: what is recomputed counts once.
      peak: FLOP/s of all devices at most; None where they are not known.
    """
    self._batch_size, self._flops, self._peak = batch_size, flops, peak
    self._step, self._start, self._waited = step, time.perf_counter(), 0.0

  @contextmanager
  def waiting(self) -> Iterator[None]:
    """Counts what happens inside as waiting for data, and names it in a trace."""
    start = time.perf_counter()
    with jax.profiler.TraceAnnotation("wait for data"):
      yield
    self._waited += time.perf_counter() - start

  def pause(self, spent: float) -> None:
    """Leaves seconds that went into evaluation, checkpoints or traces out."""
    self._start += spent

  def read(self, step: int) -> dict[str, float]:
    """Returns what the steps since the last reading took, and begins anew.

    images_per_second and seconds_per_step; data_wait, the seconds a step in which the loop waits
    for its input, and data_wait_share, that of the time (devices, which have calls waiting, idle
    for no more); mfu, model FLOPs (Chowdhery et al., 2204.02311, appendix B) over the devices'
    peak, and memory_peak_gib, both where they are known.
    """
    now = time.perf_counter()
    steps, spent = step - self._step, max(now - self._start, 1e-9)
    rate = steps * self._batch_size / spent
    found = {
      "images_per_second": rate,
      "seconds_per_step": spent / steps,
      "data_wait": self._waited / steps,
      "data_wait_share": self._waited / spent,
    }
    if self._peak is not None:
      found["mfu"] = rate * self._flops / self._peak
    memory = memory_peak()
    if memory is not None:
      found["memory_peak_gib"] = memory / 2**30
    self._step, self._start, self._waited = step, now, 0.0
    return found
