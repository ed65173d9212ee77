"""Which modes of a mixture, and which classes, samples have."""

from typing import NamedTuple

import numpy as np

from jdistill.evaluation.samples.rows import as_rows, squared_distances


class Modes(NamedTuple):
  """Where samples of a mixture lie.

  Attributes:
    covered: modes that have samples enough.
    modes: how many there are.
    good: share of all samples that lie near a centre. A collapsed sampler can have a high one: read both.
    counts: `[modes]`, near samples of each.
  """

  covered: int
  modes: int
  good: float
  counts: np.ndarray


def mode_coverage(
  samples: np.ndarray,
  centres: np.ndarray,
  sd: float,
  *,
  shares: np.ndarray | None = None,
  radius: float = 3.0,
  least: float = 0.2,
) -> Modes:
  """Counts the modes of a mixture with known centres that samples cover.

  A sample belongs to its nearest centre and is near it within `radius * sd`. A mode is covered if its near samples are
  at least `least` of its fair share.

  Args:
    samples: `[n, d]`.
    centres: `[modes, d]`.
    sd: standard deviation of a component along an axis.
    shares: `[modes]`, weights of the components; `None` for equal ones.
    radius: in standard deviations.
    least: of the fair share, above 0.

  Raises:
    ValueError: widths that differ, weights that do not add up to 1, or numbers that are not above 0.
  """
  samples, centres = as_rows("samples", samples, 1), as_rows("centres", centres, 1)
  count = len(centres)
  shares = np.full(count, 1 / count) if shares is None else np.asarray(shares, np.float64)
  if samples.shape[1] != centres.shape[1]:
    raise ValueError(f"mode_coverage: samples have {samples.shape[1]} numbers per row, centres {centres.shape[1]}")
  if shares.shape != (count,) or not np.isclose(shares.sum(), 1) or shares.min() < 0:
    raise ValueError(f"mode_coverage: shares must be {count} weights that add up to 1, got {shares}")
  if min(sd, radius, least) <= 0:
    raise ValueError(f"mode_coverage: sd={sd}, radius={radius} and least={least} must be above 0")
  counts = np.zeros(count, int)
  for _, found in squared_distances(samples, centres):
    near = found.min(1) <= (radius * sd) ** 2
    counts += np.bincount(found.argmin(1)[near], minlength=count)
  covered = counts >= least * shares * len(samples) * (1 - 1e-9)  # 0.2 * 0.2 * 100 is above 4
  return Modes(int(covered.sum()), count, float(counts.sum() / len(samples)), counts)


def class_divergence(labels: np.ndarray, prior: np.ndarray) -> float:
  """`KL(classes of the samples || prior)` in nats: 0 for equal shares, `log(1 / share)` where only one class is left.

  Args:
    labels: `[n]` integers, what a classifier says of samples.
    prior: `[classes]`, shares in the real data.

  Returns:
    At least 0; infinite where samples have a class that the data do not.

  Raises:
    ValueError: no label, one outside the classes, or a prior that does not add up to 1.
  """
  labels, prior = np.asarray(labels), np.asarray(prior, np.float64)
  if prior.ndim != 1 or not np.isclose(prior.sum(), 1) or prior.min() < 0:
    raise ValueError(f"class_divergence: prior must be shares that add up to 1, got {prior}")
  if labels.ndim != 1 or not len(labels) or labels.min() < 0 or labels.max() >= len(prior):
    raise ValueError(f"class_divergence: labels must be a list of classes below {len(prior)}")
  shares = np.bincount(labels, minlength=len(prior)) / len(labels)
  some = shares > 0
  with np.errstate(divide="ignore"):
    return float(max(0.0, np.sum(shares[some] * (np.log(shares[some]) - np.log(prior[some])))))
