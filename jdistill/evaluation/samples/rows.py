"""What all measures of samples share: rows in float64, and distances between them in blocks."""

from collections.abc import Iterator

import numpy as np

BLOCK = 2**22  # distances that are held at once, 32 MB in float64


def as_rows(name: str, array: np.ndarray, least: int = 2) -> np.ndarray:
  """`[n, ...]` as `[n, d]` in float64.

  Raises:
    ValueError: fewer than `least` rows, or values that are not finite.
  """
  array = np.asarray(array)
  if array.ndim == 0 or len(array) < least:
    raise ValueError(f"{name}: needs at least {least} rows, got shape {array.shape}")
  rows = array.astype(np.float64).reshape(len(array), -1)
  broken = ~np.isfinite(rows).all(1)
  if broken.any():
    raise ValueError(f"{name}: {broken.sum()} of {len(rows)} rows hold NaN or infinity, the first is {broken.argmax()}")
  return rows


def pair(samples: np.ndarray, real: np.ndarray, least: int = 2) -> tuple[np.ndarray, np.ndarray]:
  """Samples and real data as rows of one width.

  Raises:
    ValueError: as `as_rows`, or widths that differ.
  """
  samples, real = as_rows("samples", samples, least), as_rows("real", real, least)
  if samples.shape[1] != real.shape[1]:
    raise ValueError(f"samples: {samples.shape[1]} numbers per row, and the real data have {real.shape[1]}")
  return samples, real


def squared_distances(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
  """`(rows of x, their squared distances to all of y [m, N])`, in blocks of at most `BLOCK` numbers.

  They are expanded into a matrix product around the mean of `y`, which costs about 1e-16 times the largest squared
  norm. An array of all pairs is never held.
  """
  centre = y.mean(0)
  y = y - centre
  norms, size = np.square(y).sum(1), max(1, BLOCK // len(y))
  for begin in range(0, len(x), size):
    rows = x[begin : begin + size] - centre
    found = np.square(rows).sum(1)[:, None] + norms - 2 * rows @ y.T
    yield slice(begin, begin + len(rows)), np.maximum(found, 0)


def neighbour_radii(x: np.ndarray, k: int) -> np.ndarray:
  """`[n]` squared distances to the k-th nearest other row.

  Raises:
    ValueError: `k` outside `[1, n)`.
  """
  if not 1 <= k < len(x):
    raise ValueError(f"k={k}: must be from 1 to {len(x) - 1}, one less than the rows")
  radii = np.empty(len(x))
  for rows, found in squared_distances(x, x):
    found[np.arange(len(found)), np.arange(rows.start, rows.stop)] = np.inf  # not itself
    radii[rows] = np.partition(found, k - 1, axis=1)[:, k - 1]
  return radii
