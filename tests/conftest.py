"""Strict JAX for every test: implicit rank and dtype promotion are errors, and there are eight devices."""

import os
import shutil
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# runs share their compiled programs within a session of tests, and leave the user's cache alone
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jdistill-tests-")

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
# tests compile far more than they compute; a program that runs slower and compiles in half the time suits them
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


def pytest_unconfigure():
  shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture
def x64():
  """Float64 for a reference test, and float32 again afterwards."""
  with jax.enable_x64(True):
    yield
