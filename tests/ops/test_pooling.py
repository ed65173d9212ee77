"""Pooling to a given size against loops in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.ops import adaptive_average_pool

S = np.random.default_rng(1).normal(size=(2, 5, 6, 3))


def test_adaptive_average_pool(x64, numpy_pool):
  for size in (1, 2, 4, 5):
    np.testing.assert_allclose(adaptive_average_pool(jnp.asarray(S), size), numpy_pool(S, size), rtol=1e-12)
  line = adaptive_average_pool(jnp.arange(5.0).reshape(1, 1, 5, 1), (1, 2))
  np.testing.assert_allclose(line.ravel(), [1.0, 3.0])  # (0 1 2) and (2 3 4): the middle is in both
  with pytest.raises(ValueError, match="cannot be pooled"):
    adaptive_average_pool(jnp.zeros((2, 3, 3, 1)), 4)
