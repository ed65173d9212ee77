"""Measures by nearest neighbours: precision and recall, density and coverage, memorisation."""

from typing import NamedTuple

import numpy as np

from jdistill.evaluation.samples.rows import as_rows, neighbour_radii, pair, squared_distances


class PrecisionRecall(NamedTuple):
  """Shares of samples that lie among real data, and of real data that lie among samples."""

  precision: float
  recall: float


def precision_recall(samples: np.ndarray, real: np.ndarray, *, k: int = 3) -> PrecisionRecall:
  """How many samples are in a ball around a real example that reaches its k-th neighbour, and the reverse.

  One outlier among the real data has a large ball, so precision is sensitive to it. A point on a ball's surface is in
  it, as in the paper; the package `prdc` leaves it out, which only matters for equal distances.

  Args:
    samples, real: `[n, ...]`.
    k: which neighbour.

  Raises:
    ValueError: `k` that is not below the number of rows.

  References:
    Kynkäänniemi et al., "Improved Precision and Recall Metric" (arXiv 1904.06991).
  """
  samples, real = pair(samples, real)
  found = []
  for inside, around in ((samples, real), (real, samples)):
    radii = neighbour_radii(around, k)
    found.append(np.mean(np.concatenate([(d <= radii).any(1) for _, d in squared_distances(inside, around)])))
  return PrecisionRecall(*map(float, found))


class DensityCoverage(NamedTuple):
  """In how many real balls a sample lies over k, and the share of real balls with a sample in them.

  Attributes:
    density: around 1 for equal laws, and can be above it.
    coverage: in [0, 1]; see `expected_coverage`.
  """

  density: float
  coverage: float


def density_coverage(samples: np.ndarray, real: np.ndarray, *, k: int = 5) -> DensityCoverage:
  """`density = mean_j #{i: sample_j in ball_i} / k` and `coverage = mean_i [some sample in ball_i]`.

  Ball i reaches from a real example to its k-th real neighbour, so outliers among the samples do no harm.

  Args:
    samples, real: `[n, ...]`; coverage needs equally many wherever it is compared.
    k: which neighbour.

  Raises:
    ValueError: `k` that is not below the number of real rows.

  References:
    Naeem et al., "Reliable Fidelity and Diversity Metrics for Generative Models" (arXiv 2002.09797).
  """
  samples, real = pair(samples, real)
  radii, inside, covered = neighbour_radii(real, k), 0, np.zeros(len(real), bool)
  for _, found in squared_distances(samples, real):
    hits = found <= radii
    inside += hits.sum()
    covered |= hits.any(0)
  return DensityCoverage(float(inside / (k * len(samples))), float(covered.mean()))


def expected_coverage(k: int, samples: int, real: int) -> float:
  """The coverage that samples of the true law have on average: `1 - prod_{i=1}^k (real - i) / (samples + real - i)`.

  For equally many it approaches `1 - 2^-k`, 0.97 at `k = 5`.

  References:
    Naeem et al. (arXiv 2002.09797), lemma 2.
  """
  steps = np.arange(1, k + 1)
  return float(1 - np.prod((real - steps) / (samples + real - steps)))


class Memorisation(NamedTuple):
  """How near samples are to what was trained on, beside data that was not.

  Attributes:
    to_train, to_test: mean distance of a sample to its nearest neighbour.
    closer_to_train: share of samples that are nearer to the training data, ties half; 0.5 without memorisation.
  """

  to_train: float
  to_test: float
  closer_to_train: float


def memorisation(samples: np.ndarray, train: np.ndarray, test: np.ndarray) -> Memorisation:
  """Nearest-neighbour distances of samples to the training data and to equally many other real data.

  Args:
    samples: `[n, ...]`.
    train, test: `[m, ...]` each; with more of one, its neighbours would be nearer by chance.

  Raises:
    ValueError: different numbers of the two, or widths that differ.
  """
  samples, train = pair(samples, train, 1)
  test = as_rows("test", test, 1)
  if train.shape != test.shape:
    raise ValueError(f"memorisation: needs equally many rows of both, got train {train.shape} and test {test.shape}")
  nearest = [np.sqrt(np.concatenate([d.min(1) for _, d in squared_distances(samples, one)])) for one in (train, test)]
  closer = np.mean((nearest[0] < nearest[1]) + 0.5 * (nearest[0] == nearest[1]))
  return Memorisation(float(nearest[0].mean()), float(nearest[1].mean()), float(closer))
