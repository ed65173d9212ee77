"""Pooling of maps to a given size."""

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.ops.checks import check_rank
from jdistill.ops.precision import widen


def _bins(size: int, bins: int) -> np.ndarray:
  """`[bins, size]` averaging weights; bin `i` covers `floor(i size / bins)` to `ceil((i + 1) size / bins)`."""
  weights = np.zeros((bins, size))
  for i in range(bins):
    start, stop = i * size // bins, -(-(i + 1) * size // bins)
    weights[i, start:stop] = 1 / (stop - start)
  return weights


def adaptive_average_pool(features: jax.Array, size: int | tuple[int, int]) -> jax.Array:
  """Averages a map over `size` bins per direction, which overlap by one place where they do not divide it.

  Bin `i` of `n` over a side of length `H` covers places `floor(i H / n)` to `ceil((i + 1) H / n)`.

  Args:
    features: `[B, H, W, channels]`.
    size: height and width of the result, or one number for both; not larger than the map.

  Returns:
    `[B, *size, channels]`, float32 (float64 for float64).

  Raises:
    ValueError: if `features` is not of rank 4, or `size` is below 1 or larger than the map.

  Cost: two small matrix products per channel.
  """
  check_rank("adaptive_average_pool", "features", features, 4)
  x = widen(features)
  height, width = (size, size) if isinstance(size, int) else size
  if not (1 <= height <= x.shape[1] and 1 <= width <= x.shape[2]):
    raise ValueError(f"adaptive_average_pool: a map {x.shape} cannot be pooled to {(height, width)}")
  rows = jnp.asarray(_bins(x.shape[1], height), x.dtype)
  columns = jnp.asarray(_bins(x.shape[2], width), x.dtype)
  return jnp.einsum("ih,jw,bhwc->bijc", rows, columns, x, precision=jax.lax.Precision.HIGHEST)
