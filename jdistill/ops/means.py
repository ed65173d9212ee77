"""Means of features by class."""

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.ops.checks import check_labels, check_rank, keep, row_mask
from jdistill.ops.precision import widen


def class_means(
  features: jax.Array, labels: jax.Array, num_classes: int, *, where: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
  """The mean of the features of each class, `M_c = mean of features_i over labels_i = c`, and how many there were.

  Features may be embeddings (ND), probabilities (TGeo-KD) or prototypes (KD^3). Means of parts of a data set combine
  as `sum(counts * means) / sum(counts)`. Differentiable in `features`; teachers' features are the caller's to stop.

  Args:
    features: `[N, D]`.
    labels: `[N]` integers. Values outside `[0, num_classes)` belong to no class.
    num_classes: rows of the result.
    where: `[N]`; excluded examples belong to no class.

  Returns:
    `(means [num_classes, D], counts [num_classes])`, float32 (float64 for float64) and int32. The mean of a class
    without examples is zero: call `check_class_counts(counts)` on the host.

  Raises:
    ValueError: if `features` is not a matrix, `labels` are not integers `[N]`, `num_classes < 1`, or `where` is not
      `[N]`.

  Cost: one pass over the features.
  """
  check_rank("class_means", "features", features, 2)
  features = widen(features)
  size = features.shape[0]
  labels = check_labels("class_means", labels, (size,))
  if num_classes < 1:
    raise ValueError(f"class_means: num_classes must be at least 1, got {num_classes}")
  valid = row_mask("class_means", where, size) & (labels >= 0) & (labels < num_classes)
  segments = jnp.where(valid, labels, num_classes)  # one row more than asked for takes what belongs to no class
  x = keep(features, valid)
  sums = jax.ops.segment_sum(x, segments, num_classes + 1)[:num_classes]
  counts = jax.ops.segment_sum(valid.astype(jnp.int32), segments, num_classes + 1)[:num_classes]
  return sums / jnp.maximum(counts, 1).astype(x.dtype)[:, None], counts


def check_class_counts(counts: jax.Array) -> None:
  """Raises `ValueError` naming the classes without an example, whose means do not exist. Needs values: not under jit.

  Args:
    counts: `[classes]`, from `class_means`.
  """
  empty = np.flatnonzero(np.asarray(counts) == 0).tolist()
  if empty:
    raise ValueError(f"class_means: no example of the classes {empty}, so they have no mean; give data of all classes")
