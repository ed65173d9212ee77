"""Pooling to a given size against loops in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.ops import adaptive_average_pool

S = np.random.default_rng(1).normal(size=(2, 5, 6, 3))


def pool(x, size):
  """Average over bins that start at floor(i H / n) and stop at ceil((i + 1) H / n)."""
  height, width = x.shape[1:3]
  out = np.zeros((x.shape[0], size, size, x.shape[3]))
  for i in range(size):
    for j in range(size):
      rows = slice(int(np.floor(i * height / size)), int(np.ceil((i + 1) * height / size)))
      columns = slice(int(np.floor(j * width / size)), int(np.ceil((j + 1) * width / size)))
      out[:, i, j] = x[:, rows, columns].mean((1, 2))
  return out


def test_adaptive_average_pool(x64):
  for size in (1, 2, 4, 5):
    np.testing.assert_allclose(adaptive_average_pool(jnp.asarray(S), size), pool(S, size), rtol=1e-12)
  line = adaptive_average_pool(jnp.arange(5.0).reshape(1, 1, 5, 1), (1, 2))
  np.testing.assert_allclose(line.ravel(), [1.0, 3.0])  # (0 1 2) and (2 3 4): the middle is in both
  with pytest.raises(ValueError, match="cannot be pooled"):
    adaptive_average_pool(jnp.zeros((2, 3, 3, 1)), 4)
