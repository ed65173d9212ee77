"""Vectors of examples that are only met in inner products, so that products of gradients are never written out."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from jdistill.selection.scores import label_residuals, log_probabilities

AT_ONCE = 2**24  # numbers that are held at once: 64 MiB in float32


class Embedding(NamedTuple):
  """Vectors `e_i` of `n` examples: points, or the gradients of the last layer by their factors.

      <e_i, e_j> = scale_i scale_j <g_i, g_j> (1 + <h_i, h_j>)

  Without `hidden` the second factor is 1. With it `e_i` is `g_i` followed by the outer product of `g_i` and `h_i`: the
  gradient of the loss in bias and weight of the last layer, `[C (d + 1)]`, which is never made.

  Attributes:
    outer: `g`, `[n, C]` residuals, or `[n, d]` points.
    hidden: `h`, `[n, d]` of what enters the last layer, or `None`.
    scale: `[n]` float64, or `None` for 1.
  """

  outer: np.ndarray
  hidden: np.ndarray | None = None
  scale: np.ndarray | None = None

  @property
  def size(self) -> int:
    """`n`."""
    return len(self.outer)


def points(x: np.ndarray) -> Embedding:
  """Points `[n, ...]` as they are, flattened, in float32 or float64."""
  x = np.asarray(x)
  if x.dtype not in (np.float32, np.float64):
    x = x.astype(np.float64 if x.dtype.kind in "iub" else np.float32)
  return Embedding(x.reshape(len(x), -1))


def last_layer_gradients(
  features: np.ndarray, logits: np.ndarray, labels: np.ndarray, *, double_softmax: bool = False
) -> Embedding:
  """Gradients of the cross entropy in the last layer, factored.

  Args:
    features: `[n, d]` of what enters the layer.
    logits: `[n, C]`.
    labels: `[n]` integers.
    double_softmax: takes probabilities for logits, as the released code of DQ does (arXiv 2308.10524). Its residuals
      `softmax(softmax(z)) - onehot` are nearly those of an untrained network.
  """
  if double_softmax:
    logits = np.exp(log_probabilities(logits))
  hidden = points(features).outer
  return Embedding(np.asarray(label_residuals(logits, labels), hidden.dtype), hidden)


def unit(embedding: Embedding) -> Embedding:
  """The same vectors at length 1; zeros stay zeros, at a cosine of 0 to everything."""
  length = norms(embedding)
  return embedding._replace(scale=_scale(embedding, slice(None)) / np.where(length > 0, length, 1))


def norms(embedding: Embedding) -> np.ndarray:
  """`[n]` float64 Euclidean lengths."""
  found = _length(embedding.outer)
  if embedding.hidden is not None:
    found = found * np.sqrt(1 + np.square(_length(embedding.hidden)))
  return found * _scale(embedding, slice(None))


def take(embedding: Embedding, own: np.ndarray) -> Embedding:
  """The vectors of some of the examples."""
  return Embedding(*(None if value is None else value[own] for value in embedding))


def products(embedding: Embedding, own: np.ndarray, others: Any = slice(None)) -> np.ndarray:
  """`[m, k]` inner products of some vectors with others (with all of them), in the type of `outer`."""
  kind = embedding.outer.dtype
  scaled = embedding.outer[own] * _scale(embedding, own)[:, None].astype(kind)
  found = scaled @ embedding.outer[others].T
  if embedding.hidden is not None:
    found *= 1 + embedding.hidden[own] @ embedding.hidden[others].T
  if embedding.scale is not None:
    found *= embedding.scale[others].astype(kind)
  return found


def wide(embedding: Embedding) -> Embedding:
  """The same in float64, for what goes through all vectors again and again: `combination` and `along` copy nothing."""
  return Embedding(*(None if value is None else value.astype(np.float64, copy=False) for value in embedding))


# sums of vectors, of which there is one copy with `d` or `C (d + 1)` numbers


def combination(embedding: Embedding, own: Any = slice(None), weights: np.ndarray | None = None) -> np.ndarray:
  """The vector `sum_i w_i e_i` over some examples in float64: `[d]`, or `[C, d + 1]` for gradients.

  Args:
    embedding: of all.
    own: positions, or a slice.
    weights: one for each of them; `None` for 1.
  """
  width = embedding.outer.shape[1]
  total = np.zeros(width if embedding.hidden is None else (width, embedding.hidden.shape[1] + 1))
  scale = _scale(embedding, own) * (1 if weights is None else weights)
  for now, outer, hidden in _blocks(embedding, own):
    outer = outer * scale[now][:, None]
    if hidden is None:
      total += outer.sum(0)
    else:
      total[:, 0] += outer.sum(0)
      total[:, 1:] += outer.T @ hidden
  return total


def along(embedding: Embedding, vector: np.ndarray, own: Any = slice(None)) -> np.ndarray:
  """`[m]` float64 inner products of some vectors (of all) with one as `combination` makes it."""
  scale = _scale(embedding, own)
  found = np.empty(len(scale))
  for now, outer, hidden in _blocks(embedding, own):
    if hidden is None:
      found[now] = outer @ vector
    else:
      found[now] = np.einsum("nc,nc->n", outer, vector[:, 0] + hidden @ vector[:, 1:].T)
  return found * scale


def _blocks(embedding: Embedding, own: Any) -> Iterator[tuple[slice, np.ndarray, np.ndarray | None]]:
  """`(places, outer, hidden)` in float64, so many rows that a copy of them is small."""
  outer, hidden = embedding.outer[own], None if embedding.hidden is None else embedding.hidden[own]
  at_once = max(1, AT_ONCE // 8 // (outer.shape[1] + (0 if hidden is None else hidden.shape[1])))
  for begin in range(0, len(outer), at_once):
    now = slice(begin, begin + at_once)
    wider = outer[now].astype(np.float64, copy=False)
    yield now, wider, None if hidden is None else hidden[now].astype(np.float64, copy=False)


def _scale(embedding: Embedding, own: Any) -> np.ndarray:
  return np.ones(embedding.size)[own] if embedding.scale is None else embedding.scale[own]


def _length(x: np.ndarray) -> np.ndarray:
  return np.sqrt(np.einsum("nd,nd->n", x, x, dtype=np.float64, casting="same_kind"))
