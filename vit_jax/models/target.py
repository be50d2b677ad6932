"""For which kind of device a model is being traced, where one formulation does not suit all.

XLA's backends differ in what they fuse and how they lay arrays out: the same mathematics is up to
1.4 times as fast written one way on CPUs and another on TPUs. What is chosen by it never changes a
result beyond rounding.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

import jax

_PLATFORM: ContextVar[str | None] = ContextVar("platform", default=None)
_LOOP: ContextVar[bool] = ContextVar("loop", default=False)


def platform() -> str:
  """Returns "cpu", "gpu" or "tpu": that of `traced_for`, else the default backend's."""
  return _PLATFORM.get() or jax.default_backend()


@contextmanager
def _set(variable: ContextVar[Any], value: Any) -> Iterator[None]:
  token = variable.set(value)
  try:
    yield
  finally:
    variable.reset(token)


def loop() -> AbstractContextManager[None]:
  """Returns a context in which the body of a loop over layers is traced."""
  return _set(_LOOP, True)


def materialized(x: jax.Array) -> jax.Array:
  """Returns x, which XLA then computes once, and not anew for each tile of a product that takes it.

  In loops over layers on TPUs only: elsewhere XLA decides what to keep and what to compute again.
  """
  return jax.lax.optimization_barrier(x) if _LOOP.get() and platform() == "tpu" else x


def traced_for(device: jax.Device, fn: Callable[..., Any]) -> Callable[..., Any]:
  """Returns `fn` that is traced for the kind of a device, which need not be here."""
  name = "gpu" if device.platform in ("cuda", "rocm") else device.platform

  @wraps(fn)
  def traced(*args: Any, **kwargs: Any) -> Any:
    with _set(_PLATFORM, name):
      return fn(*args, **kwargs)

  return traced
