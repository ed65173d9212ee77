"""What runs in processes of their own have in common."""

import os
import pathlib

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


def environment(cache):
  """The variables of a run that shares its compiled programs, however small, through the directory `cache`."""
  return os.environ | {
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": str(cache),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "PYTHONPATH": str(REPOSITORY),
  }
