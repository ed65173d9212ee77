"""Which examples of a pool to ask about next: selectors of active learning, as `(rng, pool, count) -> positions`.

Builders take options and return such a function. Selectors look at a `Pool`, never at networks or labels, and give
`count` different positions in it.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import softmax

from jdistill.base import UserError
from jdistill.schema import Size, validated
from jdistill.selection import coresets, probabilities, robust


class Pool(NamedTuple):
  """What is known of the examples that may be asked about, and of those that were.

  Attributes:
    probabilities: `[n, C]` of the student on the pool.
    embedding: `[n, D]`, its penultimate features of the pool.
    labelled_probabilities, labelled_embedding: `[l, C]` and `[l, D]`, the same of examples that have an answer.
    counts: `[C]`, answers of each class.
    teacher_mistakes: about how many of the pool the teacher gets wrong; `None` where nothing tells.
    right: `[n]` bool, what the teacher gets right. Nobody knows this: it is for the control `oracle` alone.
  """

  probabilities: np.ndarray
  embedding: np.ndarray
  labelled_probabilities: np.ndarray
  labelled_embedding: np.ndarray
  counts: np.ndarray
  teacher_mistakes: float | None = None
  right: np.ndarray | None = None


Selector = Callable[[np.random.Generator, Pool, int], np.ndarray]


def check_count(pool: Pool, count: int) -> None:
  """Refuses more queries than there are examples.

  Raises:
    UserError: the pool is exhausted.
  """
  if count > len(pool.probabilities):
    raise UserError(f"active.queries={count}: only {len(pool.probabilities)} examples are left in the pool; ask fewer")


def _ranked(score: Callable[[np.ndarray], np.ndarray]) -> Selector:
  """The greatest scores of the student's probabilities; the first of equal ones."""

  def select(rng: np.random.Generator, pool: Pool, count: int) -> np.ndarray:
    del rng
    check_count(pool, count)
    return np.argsort(-np.asarray(score(pool.probabilities)), kind="stable")[:count]

  return select


@validated("selector")
def random() -> Selector:
  """Any examples, all equally likely."""

  def select(rng: np.random.Generator, pool: Pool, count: int) -> np.ndarray:
    check_count(pool, count)
    return rng.permutation(len(pool.probabilities))[:count]

  return select


@validated("selector")
def margin() -> Selector:
  """The least difference between the two greatest probabilities."""
  return _ranked(probabilities.margin_gain)


@validated("selector")
def entropy() -> Selector:
  """The greatest entropy."""
  return _ranked(probabilities.entropy)


@validated("selector")
def least_confidence() -> Selector:
  """The least greatest probability."""
  return _ranked(probabilities.least_confidence)


@validated("selector")
def class_balanced() -> Selector:
  """Drawn without replacement in proportion to `1 / max(1, answers of the predicted class)`."""

  def select(rng: np.random.Generator, pool: Pool, count: int) -> np.ndarray:
    check_count(pool, count)
    weight = 1 / np.maximum(np.asarray(pool.counts), 1)[np.argmax(pool.probabilities, axis=1)]
    return rng.choice(len(weight), count, replace=False, p=weight / weight.sum())

  return select


@validated("selector")
def k_center() -> Selector:
  """Coverage of feature space: greedy k-center on unit features (so by cosine), from those that have an answer."""

  def select(rng: np.random.Generator, pool: Pool, count: int) -> np.ndarray:
    check_count(pool, count)
    return coresets.k_center(rng, _unit(pool.embedding), count, init=_unit(pool.labelled_embedding))

  return select


@validated("selector")
def pcoreset() -> Selector:
  """Coverage of probability space: greedy k-center on the student's probabilities, from those that have an answer.

  Answered examples enter with the student's probabilities, not with their labels. Without any, the first choice is the
  example nearest to the mean.

  References:
    Kang et al., "PCoreSet: Effective Active Learning through Knowledge Distillation from Vision-Language Models" (arXiv
    2506.00910).
  """

  def select(rng: np.random.Generator, pool: Pool, count: int) -> np.ndarray:
    check_count(pool, count)
    probabilities.check_probabilities("pcoreset", pool.probabilities)
    return coresets.k_center(rng, pool.probabilities, count, init=pool.labelled_probabilities)

  return select


@validated("selector")
def badge(*, farthest_first: bool = False) -> Selector:
  """Gradient embeddings of the last layer, `(p - e_argmax) x (h, 1)`, spread by k-means++.

  The first is the longest embedding; every other is drawn in proportion to its squared distance from those before it.
  Distances come from `<e_i, e_j> = <g_i, g_j> (1 + <h_i, h_j>)`, so that the embeddings are never written down.

  Args:
    farthest_first: of embeddings of unit length, always the farthest one, without any draw, as the code of
      arXiv 2506.00910 has under this name.

  References:
    Ash et al., "Deep Batch Active Learning by Diverse, Uncertain Gradient Lower Bounds" (arXiv 1906.03671).
  """

  def select(rng: np.random.Generator, pool: Pool, count: int) -> np.ndarray:
    check_count(pool, count)
    p, h = (np.asarray(value, np.float64) for value in (pool.probabilities, pool.embedding))
    g = p - np.eye(p.shape[1])[np.argmax(p, axis=1)]
    norms = np.sum(g**2, axis=1) * (1 + np.sum(h**2, axis=1))
    scale = 1 / np.sqrt(np.where(norms > 0, norms, 1)) if farthest_first else np.ones(len(p))

    def distances(to: int) -> np.ndarray:
      inner = (g @ g[to]) * (1 + h @ h[to]) * scale * scale[to]
      return np.maximum(norms * scale**2 + norms[to] * scale[to] ** 2 - 2 * inner, 0)

    picked = [int(norms.argmax())]
    far = distances(picked[0])
    while len(picked) < count:
      far[picked] = 0
      left = np.setdiff1d(np.arange(len(p)), picked) if not far.any() else None
      if left is not None:  # all others are copies
        picked.append(int(rng.choice(left)))
      else:
        picked.append(int(far.argmax()) if farthest_first else int(rng.choice(len(p), p=far / far.sum())))
      far = np.minimum(far, distances(picked[-1]))
    return np.asarray(picked[:count], np.int64)

  return select


@validated("selector")
def rad(*, mistakes: Size | None = None) -> Selector:
  """Robust active distillation: drawn with the rates of `robust.capped_distribution` of the gain `1 - margin`.

  Args:
    mistakes: how many of the pool the teacher gets wrong; `None` for an estimate, the share of its mistakes on held-out
      examples times the size of the pool. With 0 this is `margin`.

  References:
    Baykal et al., "Robust Active Distillation" (arXiv 2210.01213). The paper's variant without an estimate is not here.
  """

  def select(rng: np.random.Generator, pool: Pool, count: int) -> np.ndarray:
    check_count(pool, count)
    found = mistakes if mistakes is not None else pool.teacher_mistakes
    if found is None:
      raise UserError("selector.mistakes: open, and no held-out examples to estimate it; set it, or validation_size")
    gain = probabilities.margin_gain(pool.probabilities)
    return systematic(rng, gain, round(found), count)

  return select


def systematic(rng: np.random.Generator, gain: np.ndarray, mistakes: int, count: int) -> np.ndarray:
  """A draw without replacement with the rates of `robust.capped_distribution`."""
  return robust.systematic_sample(rng, robust.capped_distribution(np.asarray(gain), mistakes, count).q, count)


@validated("selector")
def oracle() -> Selector:
  """The least margins among the examples that the teacher gets right: a control that nobody can have."""

  def select(rng: np.random.Generator, pool: Pool, count: int) -> np.ndarray:
    del rng
    check_count(pool, count)
    if pool.right is None:
      raise UserError("selector.name='oracle': needs to know where the teacher is right; it is a control of runs")
    gain = np.asarray(probabilities.margin_gain(pool.probabilities)) + np.asarray(pool.right)
    return np.argsort(-gain, kind="stable")[:count]

  return select


def as_probabilities(logits: np.ndarray) -> np.ndarray:
  """`softmax(logits)` on the host, in float64."""
  return softmax(np.asarray(logits, np.float64), axis=-1)


def _unit(x: np.ndarray) -> np.ndarray:
  x = np.asarray(x, np.float64)
  norm = np.linalg.norm(x, axis=1, keepdims=True)
  return x / np.where(norm > 0, norm, 1)
