import gc
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples each time, so that a failure is the change's and not the draw's; to search
# further: pytest --hypothesis-profile=default.
settings.register_profile("same", derandomize=True)
settings.load_profile("same")

# Most of the time goes into compiling programs that run for milliseconds: a third less without what
# makes them fast. They differ by rounding alone; to test the fast ones, set this to 0.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# And XLA's older way to turn fusions into machine code takes a third of the newer one's time (later
# versions that no longer have it ignore this, as they do every option in there); a program that is
# not cut into parts for several threads, a tenth less.
for _flag in (
  "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters",
  "--xla_cpu_parallel_codegen_split_count=1",
):
  if _flag.split("=")[0] not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_flag}".strip()

# Arrays here are small: threads that wait for a share of a product keep others from working.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Compiled programs are kept between test runs; the results do not depend on it.
_cache = Path(tempfile.gettempdir()) / f"vit_jax_test_compilations_{os.getuid()}"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_cache))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")


@pytest.fixture(scope="module", autouse=True)
def programs_of_one_module():
  """Frees the memory of a module's compiled programs: all together are several GB."""
  yield
  import jax  # not before the variables above are set

  jax.clear_caches()


def pytest_collection_finish():
  """Has the garbage collector look rarely, and not at the modules: tracing makes many objects."""
  gc.freeze()
  gc.set_threshold(50_000, 20, 50)
