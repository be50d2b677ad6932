import os
import tempfile
from pathlib import Path

from hypothesis import settings

# The same examples each time, so that a failure is the change's and not the draw's; to search
# further: pytest --hypothesis-profile=default.
settings.register_profile("same", derandomize=True)
settings.load_profile("same")

# Compiled programs are kept between test runs; the results do not depend on it.
_cache = Path(tempfile.gettempdir()) / f"vit_jax_test_compilations_{os.getuid()}"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_cache))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
