"""Whether a teacher knows what it should teach."""

import math

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import binom

from jdistill.base import UserError


def check_knowledge(logits: np.ndarray, labels: np.ndarray, *, name: str = "teacher") -> None:
  """Refuses a teacher that is no better than chance, and one whose classes are in another order.

  The order is told from the confusion matrix: the relabelling of the teacher's classes that makes most of its answers
  right (a linear assignment). If that mends at least half of all answers of a teacher that is right on fewer than half,
  and more than chance gives the best of all relabellings (binomial tail times their number, below 0.01), the labels are
  in another order.

  Args:
    logits: `[n, classes]` of the teacher on examples with known labels.
    labels: `[n]` integers in `[0, classes)`.
    name: how the message calls it.

  Raises:
    UserError: either of these, or labels that the teacher has no class for.
  """
  logits, labels = np.asarray(logits), np.asarray(labels)
  classes = logits.shape[-1]
  if labels.max(initial=0) >= classes:
    raise UserError(
      f"{name}: has {classes} classes, and there are labels up to {labels.max()}; give a teacher of these classes"
    )
  answers = np.argmax(logits, axis=-1)
  counts = np.zeros((classes, classes), np.int64)
  np.add.at(counts, (answers, labels), 1)
  right = np.trace(counts) / len(labels)
  rows, columns = linear_sum_assignment(-counts)
  best = counts[rows, columns].sum() / len(labels)
  chance = binom.logsf(counts[rows, columns].sum() - 1, len(labels), 1 / classes) + math.lgamma(classes + 1)
  if right < 0.5 and best - right >= 0.5 and chance < math.log(0.01):
    moved = [f"{a}->{b}" for a, b in zip(rows, columns, strict=True) if a != b]
    raise UserError(
      f"{name}: its classes are in another order (accuracy {right:.3f}, {best:.3f} with {', '.join(moved[:5])}"
      f"{', ...' if len(moved) > 5 else ''}); give it these labels, or permute its head"
    )
  if right <= 1 / classes:
    raise UserError(
      f"{name}: accuracy {right:.3f} is not above chance for {classes} classes; train it longer "
      "(teacher_train.epochs), or check its labels"
    )
