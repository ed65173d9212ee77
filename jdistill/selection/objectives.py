"""What coresets are chosen to maximise: coverage, similarity to all and difference from each other.

Each function gives an `Objective` for `jdistill.selection.greedy.maximise`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jdistill.base import UserError
from jdistill.selection import embeddings
from jdistill.selection.embeddings import AT_ONCE, Embedding
from jdistill.selection.greedy import Objective


class Similarity(NamedTuple):
  """How similar examples are, at least 0 unless `negative`; sums of it over sets cost no more than a vector.

  Attributes:
    size: `n`.
    rows: `(candidates) -> [m, n]` similarities to all.
    start: what `plus` begins with, a sum over nothing.
    plus: `(sum, example) -> sum` with one example more.
    at: `(sum, candidates) -> [m]` float64, the similarity of each candidate to all in the sum.
    whole: `() -> sum` over all examples.
    negative: whether similarities may be negative.
    precision: relative rounding of `rows`.
  """

  size: int
  rows: Callable[[np.ndarray], np.ndarray]
  start: Any
  plus: Callable[[Any, int], Any]
  at: Callable[[Any, np.ndarray], np.ndarray]
  whole: Callable[[], Any]
  negative: bool = False
  precision: float = float(np.finfo(np.float64).eps)


def cosine_similarity(embedding: Embedding) -> Similarity:
  """`0.5 + 0.5 cos(e_i, e_j)`; the cosine to a vector of zeros counts as 0."""
  return _affine(embeddings.unit(embedding), 0.5, 0.5)


def product_similarity(embedding: Embedding) -> Similarity:
  """`<e_i, e_j>`, which may be negative: facility location refuses it, graph cuts are maximised naively."""
  return _affine(embedding, 0.0, 1.0)._replace(negative=True)


def _affine(embedding: Embedding, offset: float, slope: float) -> Similarity:
  """`offset + slope <e_i, e_j>`; a sum of it is how many examples it has and the sum of their vectors."""

  # of few vectors there is a copy in float64, which saves one for every sum
  summed = embeddings.wide(embedding) if embedding.outer.size <= AT_ONCE else embedding

  def rows(candidates):
    found = embeddings.products(embedding, candidates)
    found *= slope
    found += offset
    return found

  def plus(total, example):
    count, vector = total
    return count + 1, vector + embeddings.combination(summed, slice(example, example + 1))

  def at(total, candidates):
    count, vector = total
    return offset * count + slope * embeddings.along(summed, vector, candidates)

  return Similarity(
    embedding.size,
    rows,
    (0, 0.0 * embeddings.combination(embedding, slice(0))),
    plus,
    at,
    lambda: (embedding.size, embeddings.combination(summed)),
    precision=float(np.finfo(embedding.outer.dtype).eps),
  )


def row_similarity(size: int, row: Callable[[int], np.ndarray], *, negative: bool = False) -> Similarity:
  """Any similarity, by a function that gives one row of it, such as a compiled one on an accelerator.

  Args:
    size: `n`.
    row: `(i) -> [n]` similarities of example `i` to all, itself included; symmetric.
    negative: whether they may be negative.
  """

  def rows(candidates):
    return (
      np.stack([np.asarray(row(int(i)), np.float64) for i in candidates]) if len(candidates) else np.zeros((0, size))
    )

  return Similarity(
    size,
    rows,
    np.zeros(size),
    lambda total, example: total + np.asarray(row(int(example)), np.float64),
    lambda total, candidates: total[candidates],
    lambda: sum((np.asarray(row(i), np.float64) for i in range(size)), np.zeros(size)),
    negative,
  )


def graph_cut(similarity: Similarity, *, lam: float = 1.0) -> Objective:
  """`f(S) = lam sum_{v in V, s in S} s(v, s) - sum_{s, t in S, s != t} s(s, t)`, like all and unlike each other.

  The gain of `x` is `lam sum_V s(v, x) - 2 sum_S s(s, x)`, as in DeepCore (arXiv 2204.08499). What is kept
  are the sums over `V` and over `S`, not similarities: the first gains cost `n` products, and every choice a few more.
  """
  everyone = np.arange(similarity.size)
  first = lam * similarity.at(similarity.whole(), everyone)

  def refresh(total, picked, candidates, values, ages):
    return first[candidates] - 2 * similarity.at(total, candidates)

  return Objective(
    first,
    refresh,
    similarity.plus,
    similarity.start,
    diminishing=not similarity.negative,
    tolerance=4 * np.finfo(np.float64).eps * similarity.size * max(1.0, lam),
  )


def distance_cut(embedding: Embedding) -> Objective:
  """The gain of `x` is `sum_{p in S} |p - x|^2 - sum_{p in V - S} |p - x|^2`: DQ's formula (arXiv 2308.10524, eq. 3).

  Far from what is chosen and close to what remains. Gains grow with every choice, so no lazy evaluation holds.
  """
  embedding = embeddings.wide(embedding)
  square, every = np.square(embeddings.norms(embedding)), embeddings.combination(embedding)
  total, middle = square.sum(), embeddings.along(embedding, every)

  def refresh(state, picked, candidates, values, ages):
    vector, sum_of_squares = state  # of S: both sums of squared distances expand into these and those of V
    near = embeddings.along(embedding, vector, candidates)
    far_from = len(picked) * square[candidates] - 2 * near + sum_of_squares
    return 2 * far_from - (embedding.size * square[candidates] - 2 * middle[candidates] + total)

  def add(state, example):
    vector, sum_of_squares = state
    return vector + embeddings.combination(embedding, slice(example, example + 1)), sum_of_squares + square[example]

  first = -(embedding.size * square - 2 * middle + total)
  tolerance = 8 * np.finfo(np.float64).eps * (embedding.size * square.max(initial=0) + total)
  return Objective(first, refresh, add, (0 * every, 0.0), diminishing=False, tolerance=tolerance)


def facility_location(similarity: Similarity) -> Objective:
  """`f(S) = sum_{v in V} max_{s in S} s(v, s)`, how well every example is represented by its nearest choice.

  The gain of `x` is `sum_v max(0, s(v, x) - m_v)` with the running maximum `m`, from 0. Similarities of few examples
  (5,792, 128 MiB in float32) are kept; of more they are computed anew in blocks: memory grows with `n` only.

  Raises:
    UserError: similarities that may be negative.
  """
  if similarity.negative:
    raise UserError("similarity: may be negative, and facility location needs at least 0; give cosines or a kernel")
  everyone = np.arange(similarity.size)
  kept = similarity.rows(everyone) if similarity.size**2 <= 2 * AT_ONCE else None
  rows = similarity.rows if kept is None else lambda candidates: kept[candidates]
  at_once = max(1, AT_ONCE // similarity.size)

  def refresh(highest, picked, candidates, values, ages):
    found = np.empty(len(candidates))
    for begin in range(0, len(candidates), at_once):
      more = rows(candidates[begin : begin + at_once])
      more -= highest
      found[begin : begin + at_once] = np.maximum(more, 0, out=more).sum(1, dtype=np.float64)
    return found

  def add(highest, example):
    return np.maximum(highest, rows(np.array([example]))[0])

  first = kept.sum(1, dtype=np.float64) if kept is not None else similarity.at(similarity.whole(), everyone)
  kind = rows(everyone[:1]).dtype
  # errors of as many similarities as there are examples, of either sign
  tolerance = 4 * similarity.precision * np.sqrt(similarity.size) * float(first.max(initial=0)) / similarity.size
  return Objective(first, refresh, add, np.zeros(similarity.size, kind), tolerance=tolerance)


def distance_similarity(embedding: Embedding) -> Similarity:
  """`c - || e_i - e_j ||` with `c` twice the longest vector, so that it is at least 0: CRAIG's (arXiv 1906.01827).

  Any larger `c` makes facility location choose the same.
  """
  kind = embedding.outer.dtype
  square = np.square(embeddings.norms(embedding)).astype(kind)
  ceiling = 2 * np.sqrt(square.max(initial=0))

  def rows(candidates):
    found = embeddings.products(embedding, candidates)
    found *= -2
    found += square
    found += square[candidates][:, None]
    found[np.arange(len(candidates)), candidates] = 0
    np.sqrt(np.maximum(found, 0, out=found), out=found)
    return np.maximum(np.subtract(ceiling, found, out=found), 0, out=found)

  return row_similarity(embedding.size, lambda i: rows(np.array([i]))[0])._replace(
    rows=rows, whole=lambda: _column_sums(rows, embedding.size), precision=float(np.finfo(kind).eps)
  )


def _column_sums(rows: Callable[[np.ndarray], np.ndarray], size: int) -> np.ndarray:
  everyone, at_once = np.arange(size), max(1, AT_ONCE // max(size, 1))
  parts = [rows(everyone[begin : begin + at_once]).sum(1, dtype=np.float64) for begin in range(0, size, at_once)]
  return np.concatenate(parts)


def farthest(points: np.ndarray, chosen: np.ndarray | None = None) -> Objective:
  """The gain of `x` is its squared distance to the nearest of what is chosen: k-center (arXiv 1708.00489).

  Args:
    points: `[n, d]` float32 or float64.
    chosen: `[m, d]` centres that are there before; without them the first gains are infinite.
  """

  def refresh(state, picked, candidates, values, ages):
    # of the choices that the oldest of these gains does not know of
    return np.minimum(values, nearest(points[candidates], points[picked[ages.min() :]]))

  if chosen is None:
    return Objective(np.full(len(points), np.inf), refresh, exact=False)
  return Objective(nearest(points, chosen), refresh)


def nearest(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
  """`[n]` float64 squared distances to the nearest of `[m, d]` centres, infinite without any; 0 for equal rows.

  A product of matrices says which centres may be the nearest, and differences how far those are.
  """
  found = np.full(len(points), np.inf)
  centres = centres.astype(np.float64)
  length = np.einsum("md,md->m", centres, centres)
  at_once = max(1, AT_ONCE // 8 // max(points.shape[1], len(centres)))
  for begin in range(0, len(points) if len(centres) else 0, at_once):
    part = points[begin : begin + at_once].astype(np.float64)
    own = np.einsum("nd,nd->n", part, part)[:, None]
    far = own - 2 * part @ centres.T + length
    rounding = 4 * np.finfo(np.float64).eps * np.sqrt(points.shape[1]) * (own + length.max())
    row, centre = np.nonzero(far <= far.min(1, keepdims=True) + rounding)
    for now in range(0, len(row), at_once):
      now = slice(now, now + at_once)
      np.minimum.at(found, begin + row[now], np.square(part[row[now]] - centres[centre[now]]).sum(-1))
  return found
