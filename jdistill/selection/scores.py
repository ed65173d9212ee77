"""How hard, how uncertain or how often forgotten every example is: scores by which examples are kept."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import UserError
from jdistill.ops.logits import log_probs, probs
from jdistill.ops.precision import widen


def label_residuals(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """`softmax(logits) - onehot(labels)`, the gradient of the cross entropy in the logits.

  The entry of the label is minus the sum of the other probabilities, so that it does not round to 0 where the label has
  nearly all of the probability.

  Args:
    logits: `[..., n, C]`.
    labels: `[n]` integers.

  Returns:
    `[..., n, C]` float32 or float64.
  """
  own = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
  others = jnp.where(own, 0, probs(logits))
  return jnp.where(own, -jnp.sum(others, axis=-1, keepdims=True), others)


def el2n(logits: jax.Array, labels: jax.Array) -> jax.Array:
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
  return jnp.mean(jnp.linalg.norm(label_residuals(logits, labels), axis=-1), axis=0)


def grand(features: jax.Array, logits: jax.Array, labels: jax.Array) -> jax.Array:
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
  residual = jnp.linalg.norm(label_residuals(logits, labels), axis=-1)
  return jnp.mean(residual * jnp.sqrt(1 + jnp.sum(jnp.square(widen(features)), axis=-1)), axis=0)


def forgetting(history: jax.Array, *, never_learned: Literal["highest", "zero"] = "highest") -> jax.Array:
  """How often an example was classified correctly at one check and wrongly at the next.

  Args:
    history: `[checks, n]` bool, at least two checks.
    never_learned: the score of an example that was wrong at every check: the number of checks, more than any other can
      have (arXiv 1812.05159), or 0, as in the released code of DeepCore, where it has nothing to forget.

  Returns:
    `[n]` int32.

  Raises:
    UserError: fewer than two checks.

  References:
    Toneva et al., "An Empirical Study of Example Forgetting during Deep Neural Network Learning" (arXiv 1812.05159).
  """
  if len(history) < 2:
    raise UserError(f"evidence.history: {len(history)} checks, and forgetting takes two; look at least twice")
  history = jnp.asarray(history).astype(bool)
  events = jnp.sum(history[:-1] & ~history[1:], axis=0, dtype=jnp.int32)
  if never_learned == "zero":
    return events
  return jnp.where(jnp.any(history, axis=0), events, len(history)).astype(jnp.int32)


def uncertainty(logits: jax.Array, *, kind: Literal["confidence", "entropy", "margin"] = "entropy") -> jax.Array:
  """Mean over networks of how unsure a prediction is: the higher, the less sure.

  Args:
    logits: `[runs, n, C]`.
    kind: `"confidence"` is `1 - max_c p_c`, `"entropy"` is `-sum_c p_c log p_c`, and `"margin"` is `1 - (p_1 - p_2)` of
      the two likeliest classes.

  Returns:
    `[n]`.
  """
  p = probs(logits)
  if kind == "entropy":
    return jnp.mean(-jnp.sum(p * log_probs(logits), axis=-1), axis=0)
  best = jax.lax.top_k(p, 2 if kind == "margin" else 1)[0]
  return jnp.mean(1 - best[..., 0] + (best[..., 1] if kind == "margin" else 0), axis=0)


def contrast(logits: jax.Array, neighbours: jax.Array) -> jax.Array:
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
  p, log_p = probs(logits), log_probs(logits)

  def towards(near):  # [n]: one neighbour of each, so that memory does not grow with their number
    return jnp.sum((p - p[:, near]) * (log_p - log_p[:, near]), axis=-1) / 2

  return jnp.mean(jax.lax.map(towards, jnp.asarray(neighbours).T), axis=(0, 1))


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
