"""Losses on the direction and length of an embedding, with class means of a teacher as the landmarks."""

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.ops.checks import check_batches, check_labels, check_rank, check_same_shape, keep, leading_mask
from jdistill.ops.pairwise import TINY, safe_norm, unit
from jdistill.ops.precision import widen


def _directions(name: str, embeddings: jax.Array, means: jax.Array, labels: jax.Array) -> jax.Array:
  """The unit vector towards each example's class mean `[B, D]`; zero for labels that name no class."""
  check_rank(name, "student_embeddings", embeddings, 2)
  check_rank(name, "class_means", means, 2)
  if np.shape(embeddings)[1] != np.shape(means)[1]:
    raise ValueError(
      f"{name}: student_embeddings {np.shape(embeddings)} and class_means {np.shape(means)} differ in width; "
      "map the student's embedding to the teacher's width first"
    )
  labels = check_labels(name, labels, np.shape(embeddings)[:1])
  classes = np.shape(means)[0]
  towards = unit(jax.lax.stop_gradient(widen(means)))[jnp.clip(labels, 0, classes - 1)]
  return keep(towards, (labels >= 0) & (labels < classes))


def _ratio(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
  usable = denominator > TINY
  return jnp.where(usable, numerator / jnp.where(usable, denominator, 1), 0)


def norm_direction_loss(
  student_embeddings: jax.Array,
  teacher_embeddings: jax.Array,
  class_means: jax.Array,
  labels: jax.Array,
  *,
  where: jax.Array | None = None,
) -> jax.Array:
  """ND: `1 - <s, e> / max(||s||, ||t||)` with `e` the unit vector towards the teacher's mean of the example's class.

  While the student's embedding is shorter than the teacher's of the same image, growing and turning it both pay; from
  then on it is `1 - cos(s, e)`, and length has no gradient any more.

  Args:
    student_embeddings: `[B, D]`, pooled, after the last activation, and mapped to the teacher's width where it
      differs.
    teacher_embeddings: `[B, D]` of the same (augmented) images. No gradient.
    class_means: `[classes, D]` of the same teacher, see `jdistill.ops.class_means`. No gradient.
    labels: `[B]` integers. An example whose label names no class has the loss 1 and no gradient.
    where: `[B]`; the loss is 0 where it is false.

  Returns:
    `[B]` in [0, 2]. Weights from 0.5 to 4 were tuned for each pair of networks.

  Raises:
    ValueError: if the embeddings differ in shape, the means in width, or `labels` are not integers `[B]`.

  Cost: nothing beside the forward passes; the means take one pass of the teacher over the training set.

  References:
    Wang et al., "Improving Knowledge Distillation via Regularizing Feature Norm and Direction" (arXiv 2305.17007), as
    in the released code, which rounds the means to four decimals; here they keep full precision.
  """
  name = "norm_direction_loss"
  check_same_shape(name, student_embeddings=student_embeddings, teacher_embeddings=teacher_embeddings)
  towards = _directions(name, student_embeddings, class_means, labels)
  valid = leading_mask(name, where, np.shape(student_embeddings)[:1])
  towards, student = keep(towards, valid), keep(widen(student_embeddings), valid)
  teacher = keep(jax.lax.stop_gradient(widen(teacher_embeddings)), valid)
  student_norm, teacher_norm = safe_norm(student), safe_norm(teacher)
  # where, not maximum: at equal lengths the student's branch alone, not half of each
  longer = jnp.where(student_norm >= teacher_norm, student_norm, teacher_norm)
  return keep(1 - _ratio(jnp.sum(student * towards, axis=1), longer), valid)


def direction_only_loss(
  student_embeddings: jax.Array, class_means: jax.Array, labels: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
  """The direction half of ND: `1 - cos(s, e)` with `e` towards the teacher's mean of the example's class.

  Args:
    student_embeddings: `[B, D]`, in the teacher's width.
    class_means: `[classes, D]` of the teacher. No gradient. For the control against the teacher's embedding of each
      image, pass the teacher's embeddings here and `jnp.arange(B)` as labels.
    labels: `[B]` integers. An example whose label names no class has the loss 1 and no gradient.
    where: `[B]`; the loss is 0 where it is false.

  Returns:
    `[B]` in [0, 2]. Does not depend on the length of the student's embeddings; 1 for a zero one.

  Raises:
    ValueError: if the widths differ or `labels` are not integers `[B]`.

  Cost: nothing to speak of.

  References:
    Wang et al. (arXiv 2305.17007), an ablation of `norm_direction_loss`.
  """
  name = "direction_only_loss"
  towards = _directions(name, student_embeddings, class_means, labels)
  valid = leading_mask(name, where, np.shape(student_embeddings)[:1])
  student = unit(keep(widen(student_embeddings), valid))
  return keep(1 - jnp.sum(student * keep(towards, valid), axis=1), valid)


def norm_only_loss(
  student_embeddings: jax.Array, teacher_embeddings: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
  """The length half of ND: `1 - ||s|| / max(||s||, ||t||)`, zero once the student's embedding is the longer one.

  With `direction_only_loss` it makes up the whole: `1 - nd = (1 - direction) * (1 - norm)`. That this is the paper's
  ablation of the norm is unverified.

  Args:
    student_embeddings: `[B, D]`; the width may differ from the teacher's.
    teacher_embeddings: `[B, D_t]` of the same images. No gradient.
    where: `[B]`; the loss is 0 where it is false.

  Returns:
    `[B]` in [0, 1].

  Raises:
    ValueError: if the embeddings are not matrices with equally many rows.

  Cost: nothing to speak of.

  References:
    Wang et al. (arXiv 2305.17007).
  """
  name = "norm_only_loss"
  for side, x in (("student_embeddings", student_embeddings), ("teacher_embeddings", teacher_embeddings)):
    check_rank(name, side, x, 2)
  check_batches(name, student_embeddings, teacher_embeddings)
  valid = leading_mask(name, where, np.shape(student_embeddings)[:1])
  student_norm = safe_norm(keep(widen(student_embeddings), valid))
  teacher_norm = safe_norm(keep(jax.lax.stop_gradient(widen(teacher_embeddings)), valid))
  shorter = student_norm < teacher_norm
  return keep(jnp.where(shorter, 1 - _ratio(student_norm, jnp.where(shorter, teacher_norm, 1)), 0), valid)
