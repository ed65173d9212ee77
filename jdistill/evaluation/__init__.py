"""Evaluation: train fresh networks on a set, test them, and say how that compares."""

from jdistill.evaluation.probe import Scale, ridge_probe
from jdistill.evaluation.train import LOSSES, OPTIMIZERS, Protocol, accuracy, evaluate_seeds, examples_of, train_seeds
from jdistill.models import predict

__all__ = [
  "LOSSES", "OPTIMIZERS", "Protocol", "Scale", "accuracy", "evaluate_seeds", "examples_of", "predict", "ridge_probe",
  "train_seeds",
]  # fmt: skip
