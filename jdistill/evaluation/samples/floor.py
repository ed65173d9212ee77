"""Measures beside what real data themselves get: the floor of every number about finitely many samples."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from jdistill.base import Key
from jdistill.evaluation.samples.frechet import frechet_distance
from jdistill.evaluation.samples.mmd import kernel_distance, median_bandwidth, mmd_rbf
from jdistill.evaluation.samples.neighbours import density_coverage, precision_recall
from jdistill.evaluation.samples.rows import pair
from jdistill.evaluation.samples.wasserstein import sliced_wasserstein

Measure = Callable[[np.ndarray, np.ndarray], Mapping[str, float]]  # samples [n, d], real [n, d] -> numbers by name


class Beside(NamedTuple):
  """A measure of samples and the same of real data.

  Attributes:
    value, value_sd: mean and standard deviation over splits, of samples against one part of the real data.
    floor, floor_sd: of another part of the real data against the same part.
    size: rows on either side of each comparison.
    splits: how often the real data were split.
  """

  value: float
  value_sd: float
  floor: float
  floor_sd: float
  size: int
  splits: int

  @property
  def differs(self) -> bool:
    """Whether the value is further from the floor than two standard deviations of the floor."""
    return abs(self.value - self.floor) > 2 * self.floor_sd


def beside_floor(
  measure: Measure, samples: np.ndarray, real: np.ndarray, *, seed: int = 0, splits: int = 5, size: int | None = None
) -> dict[str, Beside]:
  """Measures samples, and real data in their place, against the same real data.

  In each split, `size` real rows are the reference, `size` others take the place of samples, and `size` of the samples
  are drawn: all comparisons have equally many rows on both sides.

  Args:
    measure: numbers by name of two sets of rows.
    samples, real: `[n, ...]`.
    seed: decides the splits.
    splits: how many, at least 2.
    size: rows on each side; `None` for as many as there are, the number of samples or half of the real rows.

  Returns:
    `Beside` by name.

  Raises:
    ValueError: fewer than two splits, or more rows than there are.
  """
  samples, real = pair(samples, real)
  most = min(len(samples), len(real) // 2)
  size = most if size is None else size
  if not 2 <= size <= most or splits < 2:
    raise ValueError(
      f"beside_floor: size={size}: must be from 2 to {most}, what {len(samples)} samples and half of {len(real)} real "
      f"rows allow, in splits={splits} of at least 2"
    )
  rng, found = np.random.default_rng(seed), []
  for _ in range(splits):
    order = rng.permutation(len(real))
    reference, other = real[order[:size]], real[order[size : 2 * size]]
    drawn = samples[rng.permutation(len(samples))[:size]]
    found.append((measure(drawn, reference), measure(other, reference)))
  result = {}
  for name in found[0][0]:
    values, floors = (np.array([split[side][name] for split in found]) for side in (0, 1))
    numbers = (float(one) for part in (values, floors) for one in (part.mean(), part.std(ddof=1)))
    result[name] = Beside(*numbers, size, splits)
  return result


def standard_measure(real: np.ndarray, *, key: Key, p: int = 2, directions: int = 256, block: int = 200) -> Measure:
  """All measures of this room that need rows alone, with what must be fixed once fixed.

  These are `sliced_wasserstein_p1` or `_p2`, `kernel_distance`, `mmd_rbf`, `frechet`, `precision`, `recall`,
  `density` and `coverage`. Images should come as features of a network of their domain.

  Args:
    real: `[n, ...]`, gives the bandwidth.
    key: of the directions.
    p, directions: see `sliced_wasserstein`.
    block: see `kernel_distance`; smaller where there are fewer rows.
  """
  bandwidth = median_bandwidth(real)
  seed = int(jax.random.randint(jax.random.fold_in(key, 1), (), 0, 2**31 - 1))

  def measure(samples: np.ndarray, real: np.ndarray) -> dict[str, float]:
    parts = min(block, len(samples), len(real))
    near, balls = precision_recall(samples, real), density_coverage(samples, real)
    return {
      f"sliced_wasserstein_p{p}": sliced_wasserstein(samples, real, key=key, p=p, directions=directions),
      "kernel_distance": kernel_distance(samples, real, seed=seed, block=parts).mean,
      "mmd_rbf": mmd_rbf(samples, real, bandwidth=bandwidth),
      "frechet": frechet_distance(samples, real),
      **near._asdict(),
      **balls._asdict(),
    }

  return measure
