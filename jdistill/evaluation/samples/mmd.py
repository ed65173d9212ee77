"""Kernel distances between samples and real data, unbiased: they are around 0 for equal laws, and may be below it."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jdistill.evaluation.samples.rows import as_rows, pair, squared_distances


class Blocks(NamedTuple):
  """A mean over blocks of examples.

  Attributes:
    mean: over blocks.
    sd: standard deviation over blocks.
    blocks: how many.
  """

  mean: float
  sd: float
  blocks: int


def kernel_distance(
  samples: np.ndarray, real: np.ndarray, *, seed: int = 0, blocks: int = 20, block: int = 200, degree: int = 3
) -> Blocks:
  """The squared maximum mean discrepancy under `k(x, y) = (x . y / d + 1)^degree`, unbiased, over blocks.

  On features of an Inception network this is the kernel inception distance; on any others it is not.

  Args:
    samples, real: `[n, ...]`; the numbers may differ.
    seed: decides which examples are in which block.
    blocks: how many. They share no example while there are `blocks * block` of a side, and some beyond that.
    block: examples of each side in a block, 200 to 500 as a rule.
    degree: of the polynomial.

  Raises:
    ValueError: a block of fewer than 2 or more than there are.

  References:
    Binkowski et al., "Demystifying MMD GANs" (arXiv 1801.01401).
  """
  samples, real = pair(samples, real)
  fewest = min(len(samples), len(real))
  if not 2 <= block <= fewest or blocks < 1:
    raise ValueError(f"kernel_distance: block={block}: must be from 2 to {fewest}, in blocks={blocks} of at least 1")
  rng, width = np.random.default_rng(seed), samples.shape[1]
  found = []
  for x, y in zip(_parts(rng, samples, block, blocks), _parts(rng, real, block, blocks), strict=True):
    xx, yy, xy = ((a @ b.T / width + 1) ** degree for a, b in ((x, x), (y, y), (x, y)))
    found.append(_unbiased(xx.sum() - np.trace(xx), yy.sum() - np.trace(yy), xy.sum(), block, block))
  return Blocks(float(np.mean(found)), float(np.std(found, ddof=1)) if blocks > 1 else 0.0, blocks)


def _parts(rng: np.random.Generator, rows: np.ndarray, size: int, count: int) -> Iterator[np.ndarray]:
  """Parts of shuffled rows; shuffled again where the next part would not fit."""
  order, begin = rng.permutation(len(rows)), 0
  for _ in range(count):
    if begin + size > len(rows):
      order, begin = rng.permutation(len(rows)), 0
    yield rows[order[begin : begin + size]]
    begin += size


def _unbiased(xx: float, yy: float, xy: float, n: int, m: int) -> float:
  return xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)


def median_bandwidth(real: np.ndarray, *, most: int = 2000) -> float:
  """The median distance between two rows of real data, of the first `most`.

  It holds `most^2 / 2` distances, 16 MB.

  Compute it once, of real data alone, and give it to all that is compared.

  Raises:
    ValueError: fewer than two rows, or a median of 0.
  """
  rows = as_rows("real", real)[:most]
  pairs = [
    block[np.arange(at.start, at.stop)[:, None] < np.arange(len(rows))] for at, block in squared_distances(rows, rows)
  ]
  found = np.concatenate(pairs)
  bandwidth = float(np.median(np.sqrt(found)))
  if not bandwidth > 0:
    raise ValueError("median_bandwidth: more than half of the real rows are equal; no bandwidth follows from them")
  return bandwidth


def mmd_rbf(
  samples: np.ndarray, real: np.ndarray, *, bandwidth: float, scales: Sequence[float] = (0.5, 1.0, 2.0)
) -> float:
  """The squared maximum mean discrepancy under `k(x, y) = sum_c exp(-|x - y|^2 / (2 (c bandwidth)^2))`, unbiased.

  Args:
    samples, real: `[n, ...]`; the numbers may differ.
    bandwidth: such as `median_bandwidth(real)`, one for all that is compared.
    scales: its multiples.

  Raises:
    ValueError: a bandwidth or a scale that is not above 0.

  References:
    Gretton et al., "A Kernel Two-Sample Test" (2012).
  """
  samples, real = pair(samples, real)
  if not bandwidth > 0 or not scales or min(scales) <= 0:
    raise ValueError(f"mmd_rbf: bandwidth and scales must be above 0, got {bandwidth} and {tuple(scales)}")
  factors = [1 / (2 * (scale * bandwidth) ** 2) for scale in scales]

  def total(x: np.ndarray, y: np.ndarray) -> float:
    return sum(np.exp(-factor * block).sum() for _, block in squared_distances(x, y) for factor in factors)

  n, m = len(samples), len(real)
  own = len(factors)  # of a row with itself
  return float(_unbiased(total(samples, samples) - n * own, total(real, real) - m * own, total(samples, real), n, m))
