"""How JAX is set up where inputs are tried: quick to compile, programs shared by all processes, memory bounded."""

import contextlib
import ctypes
import gc
import os
from pathlib import Path


def environment(root: Path) -> dict[str, str]:
  """Variables of processes that try inputs or prepare runs below `root`."""
  return {
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_COMPILATION_CACHE_DIR": str(root / "programs"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "TFDS_DATA_DIR": str(root / "tfds"),
  }


def drop_programs_above(gigabytes: float) -> None:
  """Drops what JAX keeps of programs once this process holds more than that."""
  import jax

  with contextlib.suppress(OSError, ValueError):
    held = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e9
    if held > gigabytes:
      jax.clear_caches()
      gc.collect()
      with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
