"""Scores of label maps: counts of confusions, which add up over a data set, and what is read from them."""

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.ops.checks import check_label_map


def confusion_matrix(
  predictions: jax.Array, labels: jax.Array, num_classes: int, *, ignore: int = -1, where: jax.Array | None = None
) -> jax.Array:
  """How often each label was predicted as each class. Matrices of parts of a data set add up.

  Args:
    predictions: integers of any shape; ones outside `[0, num_classes)` are not counted.
    labels: integers of the same shape in `[0, num_classes)`, or `ignore`.
    num_classes: `C`.
    ignore: the label of places that do not count.
    where: a mask of the same shape.

  Returns:
    `[C, C]` int32, rows are labels and columns predictions. Add up more than 2e9 places in NumPy's int64.

  Raises:
    ValueError: if shapes differ, something is not an integer, or known labels are neither classes nor `ignore`.
  """
  name = "confusion_matrix"
  labels = check_label_map(name, labels, num_classes, ignore)
  predictions = jnp.asarray(predictions)
  if not jnp.issubdtype(predictions.dtype, jnp.integer) or predictions.shape != labels.shape:
    raise ValueError(
      f"{name}: predictions must be integers of shape {labels.shape}, got {predictions.dtype} {predictions.shape}"
    )
  valid = (labels >= 0) & (labels < num_classes) & (labels != ignore)
  valid &= (predictions >= 0) & (predictions < num_classes)
  if where is not None:
    if np.shape(where) != labels.shape:
      raise ValueError(f"{name}: where must be of shape {labels.shape}, got {np.shape(where)}")
    valid &= jnp.asarray(where).astype(bool)
  row, column = jnp.where(valid, labels, 0), jnp.where(valid, predictions, 0)
  return jnp.zeros((num_classes, num_classes), jnp.int32).at[row, column].add(valid.astype(jnp.int32))


def mean_iou(confusion: jax.Array) -> jax.Array:
  """The mean over classes of intersection over union, `n_cc / (sum_j n_cj + sum_j n_jc - n_cc)`.

  Classes that neither occur nor are predicted do not count.

  Args:
    confusion: `[C, C]` counts, summed over the data set.

  Returns:
    A scalar in `[0, 1]`; NaN if nothing was counted at all.

  Raises:
    ValueError: if `confusion` is not square.
  """
  if np.ndim(confusion) != 2 or np.shape(confusion)[0] != np.shape(confusion)[1]:
    raise ValueError(f"mean_iou: confusion must be square, got shape {np.shape(confusion)}")
  confusion = jnp.asarray(confusion, jnp.float32)
  hit = jnp.diagonal(confusion)
  union = confusion.sum(0) + confusion.sum(1) - hit
  present = union > 0
  return jnp.sum(jnp.where(present, hit / jnp.where(present, union, 1), 0)) / jnp.sum(present).astype(jnp.float32)
