"""The sliced Wasserstein distance between samples and real data."""

import jax
import numpy as np

from jdistill.base import Key
from jdistill.evaluation.samples.rows import pair


def sliced_wasserstein(samples: np.ndarray, real: np.ndarray, *, key: Key, p: int = 2, directions: int = 256) -> float:
  """The distance of sorted projections, over random directions of the unit sphere.

      SW_p = ( mean_j mean_i |x_j(i) - y_j(i)|^p )^(1/p),   x_j(1) <= ... <= x_j(n) the projections on direction j

  Args:
    samples, real: `[n, ...]`, equally many: more of one side would change the bias.
    key: decides the directions. Take one key for all that is compared.
    p: 1 or 2; state it beside the value.
    directions: how many.

  Returns:
    In units of the data; above 0 for two finite samples of one law, by the floor that real data give.

  Raises:
    ValueError: unequal numbers, another `p`, or no direction.

  References:
    Bonneel et al. (2015); Kolouri et al. (arXiv 1902.00434).
  """
  samples, real = pair(samples, real, 1)
  if len(samples) != len(real):
    raise ValueError(f"sliced_wasserstein: needs equally many rows, got {len(samples)} samples and {len(real)} real")
  if p not in (1, 2) or directions < 1:
    raise ValueError(f"sliced_wasserstein: p must be 1 or 2 and directions at least 1, got p={p}, {directions}")
  axes = np.asarray(jax.random.normal(key, (directions, samples.shape[1])), np.float64)
  axes /= np.linalg.norm(axes, axis=1, keepdims=True)
  total = 0.0
  for axis in axes:
    total += np.mean(np.abs(np.sort(samples @ axis) - np.sort(real @ axis)) ** p)
  return float((total / directions) ** (1 / p))
