"""Classes of very different size: teachers and students learn from the same long-tailed data, and all classes count."""

from collections.abc import Callable
from typing import Annotated

import numpy as np

from jdistill.base import Batch, UserError
from jdistill.evaluation.scores import classification_scores
from jdistill.schema import Count, Range, validated
from jdistill.tasks import images
from jdistill.tasks.task import Predict, Request, Task


def class_sizes(available: np.ndarray, imbalance: float, largest: int | None = None) -> np.ndarray:
  """Images per class, `largest * imbalance^(-c / (C - 1))` rounded down and at least 1: from many to few.

  Args:
    available: `[C]`, images there are of each class.
    imbalance: how many times as many images the first class has as the last one, at least 1.
    largest: images of the first class; `None` for as many as the data allow.

  Returns:
    `[C]` int64.

  Raises:
    UserError: an `imbalance` below 1, or a `largest` that the data do not allow.
  """
  if not imbalance >= 1:
    raise UserError(f"task.imbalance={imbalance}: must be at least 1, which is balanced")
  classes = np.arange(len(available))
  shares = imbalance ** (-classes / max(len(available) - 1, 1))
  most = int(np.min(np.floor(available / shares)))
  if largest is not None and not 1 <= largest <= most:
    raise UserError(f"task.largest={largest}: these data allow 1 to {most} images of the first class")
  # a hair's breadth, so that a whole number stays one
  return np.maximum(np.floor((largest or most) * shares + 1e-9), 1).astype(np.int64)


def tail_scores(tail: np.ndarray) -> Callable[[Predict, Batch], dict[str, float]]:
  """The scores of a task: accuracy over classes, over the classes `tail`, and over examples."""

  def score(predict: Predict, data: Batch) -> dict[str, float]:
    logits = predict(data.x)
    hits = np.argmax(logits, axis=-1) == data.y
    of_tail = [hits[data.y == c].mean() for c in tail if np.any(data.y == c)]
    both = classification_scores(lambda _: logits, data)
    return {
      "balanced_accuracy": both["balanced_accuracy"],
      "tail_accuracy": float(np.mean(of_tail)),
      "accuracy": both["accuracy"],
    }

  return score


@validated("task")
def long_tailed(
  request: Request,
  *,
  imbalance: Annotated[float, Range(1)] = 50.0,
  largest: Count | None = None,
  tail_classes: Count = 3,
) -> Task:
  """Labelled images of which class `c` has `n_max * imbalance^(-c / (C - 1))`; validation and test stay as they are.

  All students and teachers learn from the same images. What counts is the mean of the classes' accuracies.

  Args:
    request: which images.
    imbalance: `n_max` over the size of the last class.
    largest: `n_max`; `None` for as many as the data allow.
    tail_classes: how many of the last classes `tail_accuracy` is the mean over.

  Raises:
    UserError: sizes that the data do not allow, or more tail classes than classes.
  """
  found = images.read(request)
  if tail_classes > found.num_classes:
    raise UserError(f"task.tail_classes={tail_classes}: must lie in 1..{found.num_classes}, the number of classes")
  labels = found.train.y
  sizes = class_sizes(np.bincount(labels, minlength=found.num_classes), imbalance, largest)
  rng = np.random.default_rng((request.seed, 23))
  chosen = [rng.permutation(np.flatnonzero(labels == c))[:size] for c, size in enumerate(sizes)]
  data = images.take(found.train, np.sort(np.concatenate(chosen)))
  everyone = np.arange(len(data.y))
  return Task(
    data=data,
    members=lambda seed: everyone,
    teacher=data,
    validation=found.validation,
    test=found.test,
    num_classes=found.num_classes,
    input_shape=data.x.shape[1:],
    score=tail_scores(np.arange(found.num_classes)[-tail_classes:]),
    metric="balanced_accuracy",
    notes=(
      f"{len(data.y)} training images for teachers and students, by class {', '.join(map(str, sizes))}; choices on "
      f"{len(found.validation.y)} held-out ones; test: {len(found.test.y)}; tail_accuracy is of the last "
      f"{tail_classes} classes",
    ),
  )
