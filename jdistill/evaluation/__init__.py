"""Evaluation: train fresh networks on a set, test them, and say how that compares."""

from jdistill.evaluation.train import (
  Protocol,
  accuracy,
  evaluate_seeds,
  examples_of,
  predict,
  probabilities,
  same_examples,
  stored_targets,
  trainer,
)

__all__ = [
  "Protocol",
  "accuracy",
  "evaluate_seeds",
  "examples_of",
  "predict",
  "probabilities",
  "same_examples",
  "stored_targets",
  "trainer",
]
