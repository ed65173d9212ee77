"""Differences between methods whose runs are paired by seed."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Difference(NamedTuple):
  """`mean` of the paired differences, and the half width of its 95% interval (NaN for a single pair)."""

  mean: float
  half_width: float

  @property
  def is_clear(self) -> bool:
    """Whether the interval excludes zero."""
    return abs(self.mean) > self.half_width


def paired_difference(values: Sequence[float], reference: Sequence[float], *, level: float = 0.95) -> Difference:
  """The mean of `values - reference` with Student's interval `t_{n-1} s / sqrt(n)`.

  Pairs share initialisation, order and examples, so what they have in common cancels.

  Args:
    values, reference: one number per seed, in the same order.
    level: coverage of the interval.

  Raises:
    ValueError: their lengths differ, or they are empty.
  """
  if len(values) != len(reference) or not len(values):
    raise ValueError(f"paired_difference: {len(values)} values and {len(reference)} references; give pairs")
  gaps = np.asarray(values, np.float64) - np.asarray(reference, np.float64)
  if len(gaps) < 2:
    return Difference(float(gaps.mean()), float("nan"))
  error = gaps.std(ddof=1) / np.sqrt(len(gaps))
  return Difference(float(gaps.mean()), float(stats.t.ppf((1 + level) / 2, len(gaps) - 1) * error))
