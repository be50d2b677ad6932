"""For which kind of device a model is being traced, where one formulation does not suit all.

XLA's backends differ in what they fuse and how they lay arrays out: the same mathematics is up to
1.4 times as fast written one way on CPUs and another on TPUs. What is chosen by it never changes a
result beyond rounding.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

import jax

_PLATFORM: ContextVar[str | None] = ContextVar("platform", default=None)


def platform() -> str:
  """Returns "cpu", "gpu" or "tpu": that of `traced_for`, else the default backend's."""
  return _PLATFORM.get() or jax.default_backend()


@contextmanager
def _set(name: str) -> Iterator[None]:
  token = _PLATFORM.set(name)
  try:
    yield
  finally:
    _PLATFORM.reset(token)


def traced_for(device: jax.Device, fn: Callable[..., Any]) -> Callable[..., Any]:
  """Returns `fn` that is traced for the kind of a device, which need not be here."""
  name = "gpu" if device.platform in ("cuda", "rocm") else device.platform

  @wraps(fn)
  def traced(*args: Any, **kwargs: Any) -> Any:
    with _set(name):
      return fn(*args, **kwargs)

  return traced
