"""Strict JAX for every test: implicit rank and dtype promotion are errors, and there are eight devices."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def x64():
  """Float64 for a reference test, and float32 again afterwards."""
  with jax.enable_x64(True):
    yield
