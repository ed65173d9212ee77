"""The loss of label maps."""

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.losses._checks import masked_mean
from jdistill.losses.logit import cross_entropy
from jdistill.ops.checks import check_label_map, check_rank, keep, leading_mask
from jdistill.ops.logits import finite_logits


def segmentation_cross_entropy(
  logits: jax.Array, labels: jax.Array, *, ignore: int = -1, where: jax.Array | None = None
) -> jax.Array:
  """Mean cross entropy over all pixels that have a label.

  Logits of another size are first interpolated to that of the labels, bilinearly and with the corners aligned.

  Args:
    logits: `[B, h, w, classes]`; minus infinity masks a class out.
    labels: `[B, H, W]` integers in `[0, classes)`, or `ignore`.
    ignore: the label of pixels that do not count.
    where: `[B]`, `[B, H]` or `[B, H, W]`, false for padding. Logits that only excluded pixels, or such without a label,
      would use may hold anything.

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
  if np.shape(logits)[0] != np.shape(labels)[0]:
    raise ValueError(f"{name}: logits {np.shape(logits)} and labels {np.shape(labels)} must hold the same examples")
  logits = finite_logits(logits)
  classes = logits.shape[-1]
  labels = check_label_map(name, labels, classes, ignore)
  valid = (labels >= 0) & (labels < classes) & (labels != ignore)
  mask = leading_mask(name, where, labels.shape)
  if mask is not None:
    valid &= mask.reshape(mask.shape + (1,) * (3 - mask.ndim))
  resized = _resized(keep(logits, _used(valid, logits.shape[1:3])), labels.shape[1:])
  return masked_mean(cross_entropy(resized, jnp.where(valid, labels, 0), where=valid), valid)


def _used(valid, size):
  """The places of logits of `size` that some pixel of `valid [B, H, W]` is interpolated from."""
  if valid.shape[1:] == tuple(size):
    return valid
  rows, columns = (np.float32(_interpolation(n, m)) for n, m in zip(size, valid.shape[1:], strict=True))
  return jnp.einsum("Hh,Ww,bHW->bhw", rows, columns, valid.astype(jnp.float32)) > 0


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
