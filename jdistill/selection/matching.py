"""Subsets whose weighted gradients stand for those of all examples, or lower the loss of others."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.linalg

from jdistill.selection import embeddings
from jdistill.selection.embeddings import Embedding
from jdistill.selection.greedy import Objective, first_of_the_highest
from jdistill.selection.scores import label_residuals


class Matched(NamedTuple):
  """What `matching_pursuit` chose.

  Attributes:
    index: `[k]` positions in the order of their choice.
    weight: `[k]` float64.
    error: `|| target - sum_i w_i e_i ||` at the end.
  """

  index: np.ndarray
  weight: np.ndarray
  error: float


def matching_pursuit(
  embedding: Embedding, target: np.ndarray, count: int, *, ridge: float = 0.0, nonnegative: bool = False
) -> Matched:
  """Orthogonal matching pursuit: `sum_{i in S} w_i e_i` near a target, with `count` vectors.

  Always the vector is chosen that has the largest inner product with what the target still lacks, in absolute value;
  then all weights are fitted anew to minimise `|| target - sum_i w_i e_i ||^2 + ridge || w ||^2`. Vectors are taken as
  long as they are, and of equal products the first. Where nothing is lacking, further choices have weight 0.

  Args:
    embedding: of `n` vectors.
    target: a vector as `embeddings.combination` makes it.
    count: how many, at most `n`.
    ridge: at least 0.
    nonnegative: weights are at least 0, and the sign of the product counts.

  References:
    Killamsetty et al., GRAD-MATCH (arXiv 2103.00123), algorithm 2.
  """
  embedding = embeddings.wide(embedding)
  wanted = embeddings.along(embedding, target)
  index, weight, lacking = np.zeros(0, np.int64), np.zeros(0), target
  gram = np.zeros((count, count))
  free = np.ones(embedding.size, bool)
  tolerance = 1e-13 * np.linalg.norm(target) * embeddings.norms(embedding).max()
  for done in range(count):
    product = embeddings.along(embedding, lacking)
    if not nonnegative:
      product = np.abs(product)
    index = np.append(index, first_of_the_highest(np.where(free, product, -np.inf), tolerance))
    free[index[-1]] = False
    gram[done, : done + 1] = embeddings.along(embedding, embeddings.combination(embedding, index[-1:]), index)
    gram[: done + 1, done] = gram[done, : done + 1]
    gram[done, done] += ridge
    own = gram[: done + 1, : done + 1]
    if nonnegative:
      weight = _nonnegative(own, wanted[index], np.append(weight, 0.0), tolerance)
    else:
      weight = _solve(own, wanted[index])
    lacking = target - embeddings.combination(embedding, index, weight)
  return Matched(index, weight, float(np.linalg.norm(lacking)))


def _solve(gram: np.ndarray, right: np.ndarray) -> np.ndarray:
  """Least squares by the normal equations; of many solutions the smallest."""
  if not len(right):
    return right
  try:
    factor = np.linalg.cholesky(gram)
  except np.linalg.LinAlgError:
    factor = None
  # a vector that depends on the others, up to rounding, leaves nothing on the diagonal
  if factor is None or (np.square(np.diag(factor)) < 1e-12 * np.diag(gram)).any():
    return np.linalg.lstsq(gram, right, rcond=1e-12)[0]
  return scipy.linalg.cho_solve((factor, True), right, check_finite=False)


def _nonnegative(gram: np.ndarray, right: np.ndarray, weight: np.ndarray, tolerance: float) -> np.ndarray:
  """`argmin_{w >= 0} w gram w / 2 - right w` by active sets (Lawson & Hanson 1974), from the weights before.

  The last entry is the new one; as the others are optimal without it, few sets are tried.
  """
  active = weight > 0
  active[-1] = right[-1] - gram[-1] @ weight > tolerance
  for _ in range(3 * len(weight)):
    fitted = np.zeros_like(weight)
    fitted[active] = _solve(gram[np.ix_(active, active)], right[active])
    below = active & (fitted <= 0)
    if below.any():  # as far towards the fit as all stay at least 0
      step = (weight[below] / (weight[below] - fitted[below])).min()
      weight = weight + step * (fitted - weight)
      active &= ~(below & (weight <= 1e-15 * weight.max()))
      weight = np.where(active, weight, 0)
      continue
    weight = fitted
    slope = np.where(active, -np.inf, right - gram @ weight)
    if slope.max() <= tolerance:
      break
    active[slope.argmax()] = True
  return weight


def cluster_sizes(rows: Callable[[np.ndarray], np.ndarray], index: np.ndarray) -> np.ndarray:
  """`[k]` float32: how many examples each choice stands for, itself and those that are most similar to it of all.

  CRAIG's weights (arXiv 1906.01827); they sum to `n`, where DeepCore's code counts every choice twice.

  Args:
    rows: `(candidates) -> [m, n]` similarities.
    index: `[k]` choices; of equally similar ones the first counts.
  """
  best, owner = rows(index[:1])[0].copy(), np.zeros(rows(index[:1]).shape[1], np.int64)
  for place, example in enumerate(index[1:], start=1):
    row = rows(np.array([example]))[0]
    owner[row > best] = place
    best = np.maximum(best, row)
  owner[index] = np.arange(len(index))
  return np.bincount(owner, minlength=len(index)).astype(np.float32)


def validation_alignment(
  embedding: Embedding, hidden: np.ndarray, logits: np.ndarray, labels: np.ndarray, *, eta: float = 0.1
) -> Objective:
  """Glister: the gain of `x` is `<e_x, mean_v e_v>`, how much a step on `x` lowers the loss of validation examples `v`.

  After every choice the last layer takes that step, as a first-order Taylor expansion: the logits of `v` become
  `z_v - eta g_x (1 + <h_v, h_x>)`, and the gradients of the validation examples are computed anew.

  The released code of DeepCore passes this update under a misspelt keyword, so that it never runs there: `eta=0`.

  Args:
    embedding: gradients of the last layer, as `embeddings.last_layer_gradients` gives them.
    hidden: `[m, d]` of what enters the last layer for the validation examples.
    logits: `[m, C]` of these.
    labels: `[m]` of these.
    eta: the length of the step, at least 0.

  References:
    Killamsetty et al., GLISTER (arXiv 2012.10630), algorithm 2.
  """
  embedding, hidden = embeddings.wide(embedding), embeddings.points(hidden).outer

  def state_of(logits):
    others = Embedding(label_residuals(logits, labels), hidden)
    return logits, embeddings.combination(others) / len(labels)

  def refresh(state, picked, candidates, values, ages):
    return embeddings.along(embedding, state[1], candidates)

  def add(state, example):
    if not eta:
      return state
    near = (1 + hidden @ embedding.hidden[example])[:, None]
    return state_of(state[0] - eta * near * embedding.outer[example])

  start = state_of(np.asarray(logits, np.float64))
  first = embeddings.along(embedding, start[1])
  return Objective(first, refresh, add, start, diminishing=False)
