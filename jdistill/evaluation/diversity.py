"""How different the images of a class are in the eyes of a network."""

import numpy as np


def within_class_distance(features: np.ndarray, labels: np.ndarray) -> float | None:
  """The mean cosine distance of two images of one class.

      mean_c mean_{i < j, y_i = y_j = c} (1 - <f_i, f_j> / (|f_i| |f_j|))

  Args:
    features: `[n, d]`, such as what enters a teacher's classification head.
    labels: `[n]` integer classes.

  Returns:
    In [0, 2], and in [0, 1] for features that are not negative: 0 where all images of a class point the same way.
    `None` where no class has two images. A zero vector has the distance 1 to everything.
  """
  features, labels = np.asarray(features, np.float64), np.asarray(labels)
  norms = np.linalg.norm(features, axis=1, keepdims=True)
  units = np.divide(features, norms, out=np.zeros_like(features), where=norms > 0)
  found = []
  for label in np.unique(labels):
    own = units[labels == label]
    count = len(own)
    if count > 1:  # the sum over all pairs is that over all products, without those of an image with itself
      products = np.square(own.sum(0)).sum() - np.square(own).sum()
      found.append(1 - products / (count * (count - 1)))
  return float(np.mean(found)) if found else None
