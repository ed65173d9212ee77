"""What a finished network is worth on examples that it has not seen."""

from collections.abc import Callable

import numpy as np

from jdistill.base import Batch


def classification_scores(predict: Callable[[np.ndarray], np.ndarray], data: Batch) -> dict[str, float]:
  """Top-1 accuracy and the mean of the classes' accuracies, as fractions.

  Args:
    predict: `(x [n, ...]) -> logits [n, classes]`.
    data: labelled examples.
  """
  hits = np.argmax(predict(data.x), axis=-1) == data.y
  per_class = [hits[data.y == c].mean() for c in np.unique(data.y)]
  return {"accuracy": float(hits.mean()), "balanced_accuracy": float(np.mean(per_class))}
