"""Vectors of examples that are only met in inner products, so that products of gradients are never written out."""

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


# sums of vectors: of all the `d` or `C (d + 1)` numbers of a sum there is one copy


def combination(embedding: Embedding, own: Any = slice(None), weights: np.ndarray | None = None) -> np.ndarray:
  """The vector `sum_i w_i e_i` over some examples in float64: `[d]`, or `[C, d + 1]` for gradients.

  Args:
    embedding: of all.
    own: positions, or a slice.
    weights: one for each of them; `None` for 1.
  """
  scale = _scale(embedding, own) * (1 if weights is None else weights)
  rows = np.arange(embedding.size)[own]
  out = 0.0
  for begin in range(0, len(rows), _block(embedding)):
    now = slice(begin, begin + _block(embedding))
    outer, hidden = _wide(embedding, rows[now])
    outer = outer * scale[now][:, None]
    out = out + (outer.sum(0) if hidden is None else outer.T @ hidden)
  width = embedding.outer.shape[1]
  return out + np.zeros(width if embedding.hidden is None else (width, embedding.hidden.shape[1] + 1))


def along(embedding: Embedding, vector: np.ndarray, own: Any = slice(None)) -> np.ndarray:
  """`[m]` float64 inner products of some vectors (of all) with one as `combination` makes it."""
  rows = np.arange(embedding.size)[own]
  found = np.empty(len(rows))
  for begin in range(0, len(rows), _block(embedding)):
    now = slice(begin, begin + _block(embedding))
    outer, hidden = _wide(embedding, rows[now])
    found[now] = outer @ vector if hidden is None else np.einsum("nd,nd->n", outer @ vector, hidden)
  return found * _scale(embedding, own)


def _wide(embedding: Embedding, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
  """Rows of both factors in float64, a 1 in front of the second."""
  outer = embedding.outer[rows].astype(np.float64)
  if embedding.hidden is None:
    return outer, None
  hidden = embedding.hidden[rows]
  return outer, np.concatenate([np.ones((len(hidden), 1)), hidden], axis=1)


def _block(embedding: Embedding) -> int:
  """Rows that are widened at once."""
  return max(1, AT_ONCE // 8 // sum(value.shape[1] for value in embedding[:2] if value is not None))


def _scale(embedding: Embedding, own: Any) -> np.ndarray:
  return np.ones(embedding.size)[own] if embedding.scale is None else embedding.scale[own]


def _length(x: np.ndarray) -> np.ndarray:
  return np.sqrt(np.einsum("nd,nd->n", x, x, dtype=np.float64, casting="same_kind"))
