"""Evaluation: train fresh networks on a set, test them, and say how that compares."""

from jdistill.evaluation.clock import time_to_accuracy
from jdistill.evaluation.pretrained import Pretrained, embeddings, pretrained
from jdistill.evaluation.probe import Scale, linear_network, ridge_probe
from jdistill.evaluation.ranking import augmentation_robust_score, label_robust_score
from jdistill.evaluation.ridge_distillation import ridge_self_distill
from jdistill.evaluation.train import (
  FEATURES,
  LOSSES,
  OPTIMIZERS,
  SCHEDULES,
  Protocol,
  accuracy,
  evaluate_seeds,
  examples_of,
  train_seeds,
)
from jdistill.models import predict

__all__ = [
  "FEATURES", "LOSSES", "OPTIMIZERS", "SCHEDULES", "Pretrained", "Protocol", "Scale", "accuracy",
  "augmentation_robust_score", "embeddings", "evaluate_seeds", "examples_of", "label_robust_score", "linear_network",
  "predict", "pretrained", "ridge_probe", "ridge_self_distill", "time_to_accuracy", "train_seeds",
]  # fmt: skip
