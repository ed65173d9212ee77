"""Evaluation: train fresh networks on a set, test them, and say how that compares."""

from jdistill.evaluation.ranking import augmentation_robust_score, label_robust_score
from jdistill.evaluation.train import LOSSES, OPTIMIZERS, Protocol, accuracy, evaluate_seeds, examples_of, train_seeds
from jdistill.models import predict

__all__ = [
  "LOSSES", "OPTIMIZERS", "Protocol", "accuracy", "augmentation_robust_score", "evaluate_seeds", "examples_of",
  "label_robust_score", "predict", "train_seeds",
]  # fmt: skip
