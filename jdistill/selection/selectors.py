"""The table of selectors: every rule of selection by its name, with the evidence that it needs."""

from typing import Literal

import numpy as np

from jdistill.selection import coresets, scores
from jdistill.selection.evidence import Choice, Evidence, Selector

Keep = Literal["highest", "lowest"]


def by_score(values: np.ndarray, count: int, keep: Keep) -> Choice:
  """The `count` examples of the highest or lowest score, of equal ones the first."""
  values = np.asarray(values)
  order = np.argsort(-values if keep == "highest" else values, kind="stable")[:count]
  return Choice(order, value=values[order])


def _random(rng: np.random.Generator, evidence: Evidence, count: int) -> Choice:
  return Choice(coresets.random(rng, evidence.labels, count))


def _k_center(
  rng: np.random.Generator, evidence: Evidence, count: int, *, start: Literal["mean", "random"] = "mean"
) -> Choice:
  return Choice(coresets.k_center(rng, evidence.features[0], count, start=start))


def _el2n(rng: np.random.Generator, evidence: Evidence, count: int, *, keep: Keep = "highest") -> Choice:
  return by_score(scores.el2n(evidence.logits, evidence.labels), count, keep)


SELECTORS: dict[str, Selector] = {
  "random": Selector(_random, (), "any examples", "k"),
  "k_center": Selector(_k_center, ("features",), "the one farthest from all chosen before", "k n d"),
  "el2n": Selector(_el2n, ("logits",), "the largest (or smallest) error of the predicted probabilities", "n C"),
}
