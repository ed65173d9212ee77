"""Segmentation: losses and scores of label maps, and the noised label maps that a privileged teacher sees (LAD)."""

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.losses._checks import check_rank, masked_mean
from jdistill.losses.logit import cross_entropy
from jdistill.ops.precision import widen


def fixed_codes(num_classes: int) -> jax.Array:
  """LAD's fixed code of class `c`, `(c - (C + 1) / 2) / 10`, `[C + 1]` with the ignored places last.

  With 21 classes these are the `(c - 11) / 10` of the released distillation branch.
  """
  return (jnp.arange(num_classes + 1, dtype=jnp.float32) - (num_classes + 1) / 2) / 10


def encode_noised_labels(
  key: jax.Array,
  labels: jax.Array,
  num_classes: int,
  *,
  sigma: float = 0.03,
  scale: float = 100.0,
  codes: jax.Array | None = None,
  ignore: int = -1,
) -> jax.Array:
  """LAD's extra input channel: `scale * (v[b, label] + sigma * noise)` with noise `N(0, 1)` per pixel.

  By default `v[b, c] ~ N(0, 1)` is drawn anew per image, class and call, so that the channel shows regions and no
  class: from fixed codes a teacher would read off the answer. A student gets zeros of the same shape in its place.

  Args:
    key: for the codes and the noise.
    labels: `[B, H, W]` integers in `[0, num_classes)`, or `ignore`.
    num_classes: `C`; ignored places are one more class.
    sigma: standard deviation of the pixel noise, `>= 0`: 0.03 for training the teacher, 0.02 for distilling, 0.01 for
      looking at the teacher's scores.
    scale: of the channel; 100 fits images in `[-128, 128]`, 1 those of unit variance.
    codes: instead of random ones, `[C + 1]` for all images (`fixed_codes`) or `[B, C + 1]`.
    ignore: the label of places that belong to no class.

  Returns:
    `[B, H, W, 1]` float32, to be concatenated to the images.

  Raises:
    ValueError: if labels are not integers `[B, H, W]`, known labels are neither classes nor `ignore` (ones that are
      being traced are not looked at, and count as ignored), `sigma < 0`, or codes have another shape.

  Cost: one gather and one normal draw per pixel.

  References:
    "Make a Strong Teacher with Label Assistance" (arXiv 2407.13254), sec. 3 (number unverified); the numbers are those
    of its code.
  """
  name = "encode_noised_labels"
  check_rank(name, "labels", labels, 3)
  labels = _checked_labels(name, labels, num_classes, ignore)
  if sigma < 0:
    raise ValueError(f"{name}: sigma must be >= 0, got {sigma}")
  for_codes, for_noise = jax.random.split(key)
  batch = labels.shape[0]
  if codes is None:
    codes = jax.random.normal(for_codes, (batch, num_classes + 1))
  elif jnp.shape(codes) not in ((num_classes + 1,), (batch, num_classes + 1)):
    raise ValueError(
      f"{name}: codes must be of shape {(num_classes + 1,)} or {(batch, num_classes + 1)}, got {jnp.shape(codes)}"
    )
  codes = jnp.broadcast_to(jnp.asarray(codes, jnp.float32).reshape(-1, num_classes + 1), (batch, num_classes + 1))
  index = jnp.where((labels >= 0) & (labels < num_classes) & (labels != ignore), labels, num_classes)
  coded = jnp.take_along_axis(codes, index.reshape(batch, -1), axis=1).reshape(labels.shape)
  noise = jax.random.normal(for_noise, labels.shape)
  return (scale * (coded + sigma * noise))[..., None]


def segmentation_cross_entropy(
  logits: jax.Array, labels: jax.Array, *, ignore: int = -1, where: jax.Array | None = None
) -> jax.Array:
  """Mean cross entropy over all pixels that have a label.

  Logits of another size are first interpolated to that of the labels, bilinearly and with the corners aligned.

  Args:
    logits: `[B, h, w, classes]`.
    labels: `[B, H, W]` integers in `[0, classes)`, or `ignore`.
    ignore: the label of pixels that do not count.
    where: `[B]` or `[B, H, W]`, false for padding.

  Returns:
    A scalar in nats, the mean over the labelled pixels of the whole batch; 0 if there are none, which is worth a
    warning on the host.

  Raises:
    ValueError: if shapes do not match, labels are not integers, or known labels are neither classes nor `ignore` (ones
      that are being traced are not looked at; others then count as ignored).

  Cost: one softmax per pixel, and two small matrix products where sizes differ.

  References:
    "Make a Strong Teacher with Label Assistance" (arXiv 2407.13254), the task loss of its code.
  """
  name = "segmentation_cross_entropy"
  check_rank(name, "logits", logits, 4)
  check_rank(name, "labels", labels, 3)
  if logits.shape[0] != labels.shape[0]:
    raise ValueError(f"{name}: logits {logits.shape} and labels {labels.shape} must hold the same examples")
  classes = logits.shape[-1]
  labels = _checked_labels(name, labels, classes, ignore)
  valid = (labels >= 0) & (labels < classes) & (labels != ignore)
  if where is not None:
    where = jnp.asarray(where).astype(bool)
    if where.shape not in (labels.shape[:1], labels.shape):
      raise ValueError(f"{name}: where must be {labels.shape[:1]} or {labels.shape}, got {where.shape}")
    valid &= where.reshape(where.shape + (1,) * (3 - where.ndim))
  logits = _resized(widen(logits), labels.shape[1:])
  return masked_mean(cross_entropy(logits, jnp.where(valid, labels, 0)), valid)


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
  labels = _checked_labels(name, labels, num_classes, ignore)
  predictions = jnp.asarray(predictions)
  if not jnp.issubdtype(predictions.dtype, jnp.integer) or predictions.shape != labels.shape:
    raise ValueError(
      f"{name}: predictions must be integers of shape {labels.shape}, got {predictions.dtype} {predictions.shape}"
    )
  valid = (labels >= 0) & (labels < num_classes) & (labels != ignore)
  valid &= (predictions >= 0) & (predictions < num_classes)
  if where is not None:
    if jnp.shape(where) != labels.shape:
      raise ValueError(f"{name}: where must be of shape {labels.shape}, got {jnp.shape(where)}")
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
  if jnp.ndim(confusion) != 2 or confusion.shape[0] != confusion.shape[1]:
    raise ValueError(f"mean_iou: confusion must be square, got shape {jnp.shape(confusion)}")
  confusion = jnp.asarray(confusion, jnp.float32)
  hit = jnp.diagonal(confusion)
  union = confusion.sum(0) + confusion.sum(1) - hit
  present = union > 0
  return jnp.sum(jnp.where(present, hit / jnp.where(present, union, 1), 0)) / jnp.sum(present).astype(jnp.float32)


def _checked_labels(name, labels, num_classes, ignore):
  if not jnp.issubdtype(labels.dtype, jnp.integer):
    raise ValueError(f"{name}: labels must be integers, got {labels.dtype}")
  if not isinstance(labels, jax.core.Tracer):
    found = np.unique(np.asarray(labels))
    wrong = found[(found != ignore) & ((found < 0) | (found >= num_classes))]
    if wrong.size:
      raise ValueError(f"{name}: labels must be in [0, {num_classes}) or ignore={ignore}, got {wrong[:5].tolist()}")
  return jnp.asarray(labels)


def _resized(x, size):
  """`x [B, h, w, C]` at `size`, bilinear with aligned corners."""
  if x.shape[1:3] == tuple(size):
    return x
  rows, columns = (jnp.asarray(_interpolation(n, m), x.dtype) for n, m in zip(x.shape[1:3], size, strict=True))
  return jnp.einsum("Hh,Ww,bhwc->bHWc", rows, columns, x, precision=jax.lax.Precision.HIGHEST)


def _interpolation(source, target):
  """`[target, source]`: each row mixes the two source places around a target place; first and last places coincide."""
  place = np.linspace(0, source - 1, target) if target > 1 else np.zeros(1)
  return np.maximum(0, 1 - np.abs(place[:, None] - np.arange(source)[None]))
