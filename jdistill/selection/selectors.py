"""The table of selectors: every rule of selection by its name, with the evidence that it needs."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np

from jdistill import schema
from jdistill.schema import Above, Count, NonNegative, Range
from jdistill.selection import bins, coresets, embeddings, matching, objectives, scores
from jdistill.selection.embeddings import Embedding
from jdistill.selection.evidence import Choice, Evidence, Selector
from jdistill.selection.greedy import Objective, Order, maximise

Keep = Literal["highest", "lowest"]
Vectors = Literal["gradients", "features"]


def by_score(values: np.ndarray, count: int, keep: Keep = "highest") -> Choice:
  """The `count` examples of the highest or lowest score, of equal ones the first."""
  values = np.asarray(values)
  order = np.argsort(-values if keep == "highest" else values, kind="stable")[:count]
  return Choice(order, value=values[order])


def vectors(evidence: Evidence, kind: Vectors, double_softmax: bool = False) -> Embedding:
  """What examples are compared by: gradients of the last layer, or their features; those of the first run."""
  if kind == "features":
    return embeddings.points(evidence.features[0])
  return embeddings.last_layer_gradients(
    evidence.features[0], evidence.logits[0], evidence.labels, double_softmax=double_softmax
  )


# any, and points in space


def _random(rng: np.random.Generator, evidence: Evidence, count: int) -> Choice:
  return Choice(coresets.random(rng, evidence.labels, count))


def _herding(rng: np.random.Generator, evidence: Evidence, count: int) -> Choice:
  return Choice(coresets.herding(rng, evidence.features[0], count))


def _k_center(
  rng: np.random.Generator,
  evidence: Evidence,
  count: int,
  *,
  start: Literal["mean", "random"] = "mean",
  metric: Literal["euclidean", "cosine"] = "euclidean",
) -> Choice:
  return Choice(coresets.k_center(rng, evidence.features[0], count, start=start, metric=metric))


def _k_means(rng: np.random.Generator, evidence: Evidence, count: int, *, restarts: Count = 10) -> Choice:
  return Choice(coresets.k_means(rng, evidence.features[0], count, restarts=restarts))


# scores of single examples


def _forgetting(
  rng: np.random.Generator,
  evidence: Evidence,
  count: int,
  *,
  keep: Keep = "highest",
  never_learned: Literal["highest", "zero"] = "highest",
) -> Choice:
  return by_score(scores.forgetting(evidence.history, never_learned=never_learned), count, keep)


def _grand(rng: np.random.Generator, evidence: Evidence, count: int, *, keep: Keep = "highest") -> Choice:
  return by_score(scores.grand(evidence.features, evidence.logits, evidence.labels), count, keep)


def _el2n(rng: np.random.Generator, evidence: Evidence, count: int, *, keep: Keep = "highest") -> Choice:
  return by_score(scores.el2n(evidence.logits, evidence.labels), count, keep)


def _uncertainty(
  rng: np.random.Generator,
  evidence: Evidence,
  count: int,
  *,
  kind: Literal["confidence", "entropy", "margin"] = "entropy",
  keep: Keep = "highest",
) -> Choice:
  return by_score(scores.uncertainty(evidence.logits, kind=kind), count, keep)


def _cal(
  rng: np.random.Generator, evidence: Evidence, count: int, *, neighbours: Count = 10, keep: Keep = "highest"
) -> Choice:
  near = scores.nearest_neighbours(evidence.features[0], neighbours)
  return by_score(scores.contrast(evidence.logits, near), count, keep)


# greedy maximisation


def _maximised(rng: np.random.Generator, objective: Objective, count: int, order: Order, epsilon: float) -> Choice:
  picked = maximise(objective, count, order=order, rng=rng, epsilon=epsilon)
  return Choice(picked.index, value=picked.gain)


def _without_direction(embedding: Embedding) -> dict[str, int]:
  """How many vectors have no cosine to others, which then counts as 0."""
  count = int((embeddings.norms(embedding) == 0).sum())
  return {"vectors of length 0": count} if count else {}


Epsilon = Annotated[float, Above(0), Range(high=0.99)]


def _graph_cut(
  rng: np.random.Generator,
  evidence: Evidence,
  count: int,
  *,
  vectors_of: Vectors = "gradients",
  lam: NonNegative = 1.0,
  order: Order = "lazy",
  epsilon: Epsilon = 0.01,
) -> Choice:
  embedding = vectors(evidence, vectors_of)
  similarity = objectives.cosine_similarity(embedding)
  found = _maximised(rng, objectives.graph_cut(similarity, lam=lam), count, order, epsilon)
  return found._replace(notes=_without_direction(embedding))


def _facility_location(
  rng: np.random.Generator,
  evidence: Evidence,
  count: int,
  *,
  vectors_of: Vectors = "gradients",
  order: Order = "lazy",
  epsilon: Epsilon = 0.01,
) -> Choice:
  embedding = vectors(evidence, vectors_of)
  similarity = objectives.cosine_similarity(embedding)
  found = _maximised(rng, objectives.facility_location(similarity), count, order, epsilon)
  return found._replace(notes=_without_direction(embedding))


def _craig(
  rng: np.random.Generator,
  evidence: Evidence,
  count: int,
  *,
  vectors_of: Vectors = "gradients",
  order: Order = "lazy",
  epsilon: Epsilon = 0.01,
) -> Choice:
  similarity = objectives.distance_similarity(vectors(evidence, vectors_of))
  found = _maximised(rng, objectives.facility_location(similarity), count, order, epsilon)
  return found._replace(weight=matching.cluster_sizes(similarity.rows, found.index))


def _glister(rng: np.random.Generator, evidence: Evidence, count: int, *, eta: NonNegative = 0.1) -> Choice:
  others = evidence.validation
  objective = matching.validation_alignment(
    vectors(evidence, "gradients"), others.features[0], others.logits[0], others.labels, eta=eta
  )
  return _maximised(rng, objective, count, "naive", 0.01)


def _gradmatch(
  rng: np.random.Generator,
  evidence: Evidence,
  count: int,
  *,
  vectors_of: Vectors = "gradients",
  ridge: NonNegative = 0.0,
  nonnegative: bool = True,
) -> Choice:
  embedding = vectors(evidence, vectors_of)
  mean = embeddings.combination(embedding) / embedding.size
  found = matching.matching_pursuit(embedding, mean, count, ridge=ridge, nonnegative=nonnegative)
  # the mean over the subset of weighted gradients is that of all
  return Choice(found.index, (count * found.weight).astype(np.float32))


def _bins(
  rng: np.random.Generator,
  evidence: Evidence,
  count: int,
  *,
  n_bins: Count = 10,
  only_bin: Count | None = None,
  vectors_of: Vectors = "gradients",
  form: bins.Form = "cosine",
  lam: NonNegative = 1.0,
  double_softmax: bool = False,
) -> Choice:
  embedding, one_class = vectors(evidence, vectors_of, double_softmax), np.zeros_like(evidence.labels)
  own = bins.generate_bins(embedding, one_class, n_bins, lam=lam, form=form)
  if only_bin is None:
    counts = bins.shares(np.bincount(own), count / len(own))
  else:
    counts = count * (np.arange(n_bins) == only_bin - 1)
  notes = _without_direction(embedding) if form == "cosine" else {}
  if only_bin is None and (counts == 0).any():
    notes["bins that give nothing"] = int((counts == 0).sum())
  return Choice(bins.draw(rng, own, np.arange(len(own)), counts), notes=notes)


def _check_bins(whose: str, size: int, count: int, options: Mapping[str, Any]) -> None:
  known = {"n_bins": schema.fields(_bins)["n_bins"].default} | dict(options)
  bins.check_bins(whose, size, known["n_bins"], only_bin=known.get("only_bin"), count=count)


_POINTS, _GRADIENTS = ("features",), ("features", "logits")

SELECTORS: dict[str, Selector] = {
  "random": Selector(_random, (), "any examples", "k"),
  "herding": Selector(
    _herding, _POINTS, "always the one that brings the mean of the chosen nearest to that of all", "k n d"
  ),
  "k_center": Selector(_k_center, _POINTS, "always the one farthest from all that were chosen", "k n d"),
  "k_means": Selector(_k_means, _POINTS, "the nearest to the centres of k clusters", "restarts iterations k n d"),
  "forgetting": Selector(_forgetting, ("history",), "the most often forgotten in training", "n checks"),
  "grand": Selector(_grand, _GRADIENTS, "the longest gradients of the last layer", "runs n (C + d)"),
  "el2n": Selector(_el2n, ("logits",), "the largest error of the predicted probabilities", "runs n C"),
  "uncertainty": Selector(_uncertainty, ("logits",), "the least sure predictions", "runs n C"),
  "cal": Selector(_cal, _GRADIENTS, "predictions least like those of the nearest neighbours", "n^2 d"),
  "graph_cut": Selector(_graph_cut, _GRADIENTS, "similar to all and unlike each other", "n d, lazily"),
  "facility_location": Selector(_facility_location, _GRADIENTS, "every example is like one that is chosen", "n^2 d"),
  "craig": Selector(_craig, _GRADIENTS, "every gradient is near a chosen one, which counts for all near it", "n^2 d"),
  "glister": Selector(
    _glister, (*_GRADIENTS, "validation"), "steps on the chosen lower the loss on validation examples", "k n C d"
  ),
  "gradmatch": Selector(_gradmatch, _GRADIENTS, "the weighted mean of gradients is that of all", "k n C d + k^4"),
  "bins": Selector(_bins, _GRADIENTS, "some of every bin of dataset quantization", "n_bins n d, lazily", _check_bins),
}

CHOICES = tuple(name for name, selector in SELECTORS.items() if set(selector.needs) <= {"features"})  # any points serve
