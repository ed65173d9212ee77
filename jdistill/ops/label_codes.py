"""Label maps as an input channel that shows regions: what a privileged teacher of LAD sees."""

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.ops.checks import check_at_least, check_label_map, check_rank, flat_rows


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
    key: `jax.random.key`, for the codes and the noise.
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
  labels = check_label_map(name, labels, num_classes, ignore)
  check_at_least(name, 0, sigma=sigma)
  for_codes, for_noise = jax.random.split(key)
  batch = labels.shape[0]
  if codes is None:
    codes = jax.random.normal(for_codes, (batch, num_classes + 1))
  elif np.shape(codes) not in ((num_classes + 1,), (batch, num_classes + 1)):
    raise ValueError(
      f"{name}: codes must be of shape {(num_classes + 1,)} or {(batch, num_classes + 1)}, got {np.shape(codes)}"
    )
  codes = jnp.broadcast_to(jnp.asarray(codes, jnp.float32).reshape(-1, num_classes + 1), (batch, num_classes + 1))
  index = jnp.where((labels >= 0) & (labels < num_classes) & (labels != ignore), labels, num_classes)
  coded = jnp.take_along_axis(codes, flat_rows(index), axis=1).reshape(labels.shape)
  noise = jax.random.normal(for_noise, labels.shape)
  return (scale * (coded + sigma * noise))[..., None]
