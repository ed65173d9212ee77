"""Edit distances between responses, and the most diverse of them."""

from collections.abc import Sequence

import numpy as np


def levenshtein(a: Sequence, b: Sequence) -> int:
  """The least number of insertions, deletions and substitutions that make `b` of `a`; texts or ids of tokens."""
  codes = {item: number for number, item in enumerate(dict.fromkeys([*a, *b]))}
  a, b = (np.array([codes[item] for item in one], np.int64) for one in (a, b))
  places = np.arange(len(b) + 1)
  row = places
  for number, item in enumerate(a, 1):
    below = np.minimum(row[1:] + 1, row[:-1] + (b != item))
    # insertions carry a value to the right and add 1 for each place
    row = np.minimum.accumulate(np.concatenate([[number], below]) - places) + places
  return int(row[-1])


def levenshtein_matrix(responses: Sequence[Sequence]) -> np.ndarray:
  """Distances between all pairs, `[M, M]` int64, symmetric with zeros on the diagonal."""
  out = np.zeros((len(responses), len(responses)), np.int64)
  for i, one in enumerate(responses):
    for j in range(i):
      out[i, j] = out[j, i] = levenshtein(one, responses[j])
  return out


def farthest_subset(dist: np.ndarray, k: int) -> np.ndarray:
  """The `k` most diverse of `M`: greedily the one farthest from those taken, the two farthest apart first.

  That the greedy choice is the one of DED (arXiv 2508.09883) is its natural reading (unverified).

  Args:
    dist: `[M, M]`, symmetric.
    k: from 1 to `M`; for 1 the one with the greatest distance to all others together.

  Returns:
    `[k]` int64 in the order of the choice; of equals the first.

  Raises:
    ValueError: `k` out of range, or no matrix of distances.
  """
  dist = np.asarray(dist, np.float64)
  if dist.ndim != 2 or dist.shape[0] != dist.shape[1] or not np.array_equal(dist, dist.T):
    raise ValueError(f"farthest_subset: dist {dist.shape} is no symmetric matrix")
  if not 1 <= k <= len(dist):
    raise ValueError(f"farthest_subset: k={k} of {len(dist)} responses; ask for 1 to {len(dist)}")
  if k == 1:
    return np.array([int(np.argmax(dist.sum(axis=1)))])
  chosen = list(np.unravel_index(np.argmax(dist), dist.shape)) if dist.max() > 0 else [0, 1]
  while len(chosen) < k:
    nearest = dist[:, chosen].min(axis=1)
    nearest[chosen] = -1
    chosen.append(int(np.argmax(nearest)))
  return np.array(chosen, np.int64)
