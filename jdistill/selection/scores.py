"""How hard, how uncertain or how often forgotten every example is: scores by which examples are kept.

NumPy in float64: classes of a hundred sizes would be a hundred compilations.
"""

from typing import Literal

import numpy as np

from jdistill.base import UserError


def log_probabilities(logits: np.ndarray) -> np.ndarray:
  """`log softmax(logits)` over the last axis, float64."""
  shifted = np.asarray(logits, np.float64) - np.max(logits, axis=-1, keepdims=True)
  return shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True))


def label_residuals(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """`softmax(logits) - onehot(labels)`, the gradient of the cross entropy in the logits.

  The entry of the label is minus the sum of the other probabilities, so that it does not round to 0 where the label has
  nearly all of the probability.

  Args:
    logits: `[..., n, C]`.
    labels: `[n]` integers.

  Returns:
    `[..., n, C]` float64.
  """
  out = np.exp(log_probabilities(logits))
  own = (..., np.arange(len(labels)), labels)
  out[own] = 0
  out[own] = -out.sum(-1)
  return out


def el2n(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Mean over networks of `|| softmax(logits) - onehot(labels) ||_2`, between 0 (sure and right) and `sqrt(2)`.

  Args:
    logits: `[runs, n, C]`, of networks after a few epochs.
    labels: `[n]` integers.

  Returns:
    `[n]`.

  References:
    Paul et al., "Deep Learning on a Data Diet" (arXiv 2107.07075), which keeps the highest. Sets of a few images per
    class are better made of the lowest (arXiv 2502.06434).
  """
  return np.mean(np.linalg.norm(label_residuals(logits, labels), axis=-1), axis=0)


def grand(features: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Mean over networks of the length of the last layer's gradient, `|| g || sqrt(1 + || h ||^2)`.

  Args:
    features: `h`, `[runs, n, d]`, or `[1, n, d]` for all.
    logits: `[runs, n, C]`, of which `g = softmax - onehot`.
    labels: `[n]` integers.

  Returns:
    `[n]`.

  References:
    Paul et al. (arXiv 2107.07075); the restriction to the last layer is that of DeepCore (arXiv 2204.08499).
  """
  residual = np.linalg.norm(label_residuals(logits, labels), axis=-1)
  return np.mean(residual * np.sqrt(1 + np.sum(np.square(np.asarray(features, np.float64)), axis=-1)), axis=0)


def forgetting(history: np.ndarray, *, never_learned: Literal["highest", "zero"] = "highest") -> np.ndarray:
  """How often an example was classified correctly at one check and wrongly at the next.

  Args:
    history: `[checks, n]` bool, at least two checks.
    never_learned: the score of an example that was wrong at every check: the number of checks, more than any other can
      have (arXiv 1812.05159), or 0, as in the released code of DeepCore, where it has nothing to forget.

  Returns:
    `[n]` int64.

  Raises:
    UserError: fewer than two checks.

  References:
    Toneva et al., "An Empirical Study of Example Forgetting during Deep Neural Network Learning" (arXiv 1812.05159).
  """
  if len(history) < 2:
    raise UserError(f"evidence.history: {len(history)} checks, and forgetting takes two; look at least twice")
  history = np.asarray(history).astype(bool)
  events = np.sum(history[:-1] & ~history[1:], axis=0)
  return events if never_learned == "zero" else np.where(history.any(0), events, len(history))


def uncertainty(logits: np.ndarray, *, kind: Literal["confidence", "entropy", "margin"] = "entropy") -> np.ndarray:
  """Mean over networks of how unsure a prediction is: the higher, the less sure.

  Args:
    logits: `[runs, n, C]`.
    kind: `"confidence"` is `1 - max_c p_c`, `"entropy"` is `-sum_c p_c log p_c`, and `"margin"` is `1 - (p_1 - p_2)` of
      the two likeliest classes.

  Returns:
    `[n]`.
  """
  log_p = log_probabilities(logits)
  if kind == "entropy":
    return np.mean(-np.sum(np.exp(log_p) * log_p, axis=-1), axis=0)
  best = np.exp(np.sort(log_p, axis=-1)[..., ::-1])
  return np.mean(1 - best[..., 0] + (best[..., 1] if kind == "margin" else 0), axis=0)


def contrast(logits: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
  """CAL: mean over neighbours `j` of `(KL(p_i || p_j) + KL(p_j || p_i)) / 2`, high where predictions change quickly.

  Args:
    logits: `[runs, n, C]`.
    neighbours: `[n, k]` positions, as `nearest_neighbours` gives them.

  Returns:
    `[n]`, the mean over networks.

  References:
    Margatina et al., "Active Learning by Acquiring Contrastive Examples" (arXiv 2109.03764), which keeps the highest.
    The released code of DeepCore sorts the other way and keeps the lowest.
  """
  log_p = log_probabilities(logits)
  p, total = np.exp(log_p), np.zeros(log_p.shape[1])
  for near in np.asarray(neighbours).T:  # one neighbour of each example, so that memory does not grow with their number
    total += np.mean(np.sum((p - p[:, near]) * (log_p - log_p[:, near]), axis=-1) / 2, axis=0)
  return total / np.shape(neighbours)[1]


def nearest_neighbours(points: np.ndarray, k: int) -> np.ndarray:
  """`[n, k]` positions of the nearest other points, of equally near ones the first; the order within a row is any.

  Args:
    points: `[n, d]`.
    k: at most `n - 1`.

  Raises:
    UserError: too few points.
  """
  if k >= len(points):
    raise UserError(f"select.neighbours={k}: there are only {len(points)} examples; lower it")
  points = np.asarray(points)
  length = np.einsum("nd,nd->n", points, points)
  found, at_once = np.empty((len(points), k), np.int64), max(1, 2**24 // len(points))
  for begin in range(0, len(points), at_once):
    part = np.arange(begin, min(begin + at_once, len(points)))
    far = length - 2 * points[part] @ points.T
    far[np.arange(len(part)), part] = np.inf
    near = np.argpartition(far, k - 1)[:, :k]
    border = np.take_along_axis(far, near, 1).max(1, keepdims=True)
    for row in np.flatnonzero((far <= border).sum(1) > k):
      near[row] = np.argsort(far[row], kind="stable")[:k]
    found[part] = near
  return found
