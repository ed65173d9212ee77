"""Dataset quantization: every class cut into bins from the most to the least representative, and a part of each bin."""

from typing import Literal, NamedTuple

import numpy as np

from jdistill.base import UserError
from jdistill.selection import embeddings
from jdistill.selection.embeddings import Embedding
from jdistill.selection.greedy import maximise
from jdistill.selection.objectives import cosine_similarity, distance_cut, graph_cut, product_similarity

Form = Literal["cosine", "product", "distance"]


class Sampled(NamedTuple):
  """What `sample_bins` drew.

  Attributes:
    index: `[k]` positions, by class and bin.
    counts: `[classes, bins]`, how many of each.
    asked: `[classes]` float64, `rho n_c`: what the counts of a class would sum to without rounding.
  """

  index: np.ndarray
  counts: np.ndarray
  asked: np.ndarray


def generate_bins(
  embedding: Embedding, labels: np.ndarray, n_bins: int, *, lam: float = 1.0, form: Form = "cosine"
) -> np.ndarray:
  """`[n]` the bin of every example, from 0: within its class, bins are chosen greedily from what is left.

  A bin maximises a graph cut among the examples of the class that are in no bin before; see `graph_cut`. Sizes are
  those of `bin_sizes`. The first bins are the most typical, the last one has the outliers.

  Args:
    embedding: of all examples, gradients in the paper's code.
    labels: `[n]` integers.
    n_bins: at most the size of the smallest class.
    lam: weight of the similarity to all that are left.
    form: `"cosine"` is the released code's gain with `0.5 + 0.5 cos`, `"product"` the same with the plain inner product
      as for language, `"distance"` the paper's formula `sum_S |p - x|^2 - sum_{V - S} |p - x|^2`.

  Raises:
    UserError: `n_bins` below 1 or above the size of a class.

  References:
    Zhou et al., Dataset Quantization (arXiv 2308.10524), section 3.2.
  """
  labels = np.asarray(labels)
  found = np.zeros(len(labels), np.int64)
  for label, size in zip(*np.unique(labels, return_counts=True), strict=True):
    check_bins(f"class {label}", int(size), n_bins)
    left = np.flatnonzero(labels == label)
    for number, count in enumerate(bin_sizes(int(size), n_bins)[:-1]):
      objective = _objective(embeddings.take(embedding, left), lam, form)
      chosen = maximise(objective, count).index
      found[left[chosen]] = number
      left = np.delete(left, chosen)
    found[left] = n_bins - 1
  return found


def bin_sizes(size: int, n_bins: int) -> list[int]:
  """How many examples each bin of a class has: `round(size / n_bins)`, and the last one what is left.

  Where that would leave it nothing, bins are of `size // n_bins`.
  """
  usual = round(size / n_bins)
  if usual * (n_bins - 1) >= size:
    usual = size // n_bins
  return [usual] * (n_bins - 1) + [size - usual * (n_bins - 1)]


def check_bins(whose: str, size: int, n_bins: int, *, only_bin: int | None = None, count: int = 0) -> None:
  """Refuses bins that so many examples cannot have.

  Args:
    whose: examples they are, for messages: `"class 3"`.
    size: how many examples there are.
    n_bins: into how many bins they go.
    only_bin: the one that `count` examples come from, counted from 1; `None` for all.
    count: how many are drawn.

  Raises:
    UserError: `n_bins` outside `1..size`, no such bin, or one of fewer examples than are drawn.
  """
  if not 1 <= n_bins <= size:
    raise UserError(f"select.n_bins={n_bins}: {whose} has {size} examples; give 1 to {size}")
  if only_bin is None:
    return
  if not 1 <= only_bin <= n_bins:
    raise UserError(f"select.only_bin={only_bin}: there are {n_bins} bins; give 1 to {n_bins}")
  if (most := bin_sizes(size, n_bins)[only_bin - 1]) < count:
    raise UserError(
      f"select.only_bin={only_bin}: has {most} examples of {whose}, of which {count} are to be kept; keep fewer, "
      "or lower n_bins"
    )


def _objective(embedding, lam, form):
  if form == "distance":
    return distance_cut(embedding)
  return graph_cut((cosine_similarity if form == "cosine" else product_similarity)(embedding), lam=lam)


def sample_bins(
  rng: np.random.Generator, bins: np.ndarray, labels: np.ndarray, rho: float, *, carry: bool = False
) -> Sampled:
  """Draws the same part of every bin of every class, uniformly.

  Args:
    rng: decides what is drawn.
    bins: `[n]` as `generate_bins` gives them.
    labels: `[n]` integers.
    rho: the part, in `(0, 1]`. A bin of `m` gives `round(rho m)`, halves to the even number: nothing where `rho m` is
      below 0.5, which `counts` shows.
    carry: what rounding takes from a bin goes to the next ones, so that a class gives `round(rho n_c)`.

  Raises:
    UserError: `rho` outside `(0, 1]`, or a class of which nothing would be drawn.
  """
  if not 0 < rho <= 1:
    raise UserError(f"select.rho={rho}: must be above 0 and at most 1")
  bins, labels = np.asarray(bins), np.asarray(labels)
  classes = np.unique(labels)
  counts, index = np.zeros((len(classes), int(bins.max(initial=0)) + 1), np.int64), []
  for row, label in enumerate(classes):
    sizes = np.bincount(bins[labels == label], minlength=counts.shape[1])
    counts[row] = shares(sizes, rho) if carry else [round(rho * int(size)) for size in sizes]
    if not counts[row].any():
      raise UserError(
        f"select.rho={rho}: draws none of the {sizes.sum()} examples of class {label}, whose bins have at most "
        f"{sizes.max()}; raise rho, have fewer bins, or set carry"
      )
    index.append(draw(rng, bins, np.flatnonzero(labels == label), counts[row]))
  sizes = np.array([(labels == label).sum() for label in classes])
  return Sampled(np.concatenate(index), counts, rho * sizes)


def shares(sizes: np.ndarray, rho: float) -> np.ndarray:
  """How many of each bin, so that the first `b` bins together give `round(rho)` of what they have, for all `b`."""
  return np.diff([round(rho * int(upto)) for upto in np.concatenate([[0], np.cumsum(sizes)])])


def draw(rng: np.random.Generator, bins: np.ndarray, own: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """Positions: so many of each bin as `counts` says, among the examples `own`, bin by bin."""
  return np.concatenate([rng.permutation(own[bins[own] == number])[:count] for number, count in enumerate(counts)])
