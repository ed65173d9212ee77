"""Losses on the direction and length of an embedding, with class means of a teacher as the landmarks."""

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.losses._checks import check_labels, check_rank, check_same_shape
from jdistill.losses.pairwise import TINY, row_mask, safe_norm, unit
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
  size = features.shape[0]
  check_labels("class_means", labels, (size,))
  if num_classes < 1:
    raise ValueError(f"class_means: num_classes must be at least 1, got {num_classes}")
  valid = row_mask("class_means", where, size) & (labels >= 0) & (labels < num_classes)
  segments = jnp.where(valid, labels, num_classes)  # one row more than asked for takes what belongs to no class
  x = jnp.where(valid[:, None], widen(features), 0)
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


def _directions(name: str, embeddings: jax.Array, means: jax.Array, labels: jax.Array) -> jax.Array:
  """The unit vector towards each example's class mean `[B, D]`; zero for labels that name no class."""
  check_rank(name, "student_embeddings", embeddings, 2)
  check_rank(name, "class_means", means, 2)
  if embeddings.shape[1] != means.shape[1]:
    raise ValueError(
      f"{name}: student_embeddings {embeddings.shape} and class_means {means.shape} differ in width; "
      "map the student's embedding to the teacher's width first"
    )
  check_labels(name, labels, embeddings.shape[:1])
  classes = means.shape[0]
  towards = unit(widen(jax.lax.stop_gradient(means)))[jnp.clip(labels, 0, classes - 1)]
  return jnp.where(((labels >= 0) & (labels < classes))[:, None], towards, 0)


def _ratio(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
  usable = denominator > TINY
  return jnp.where(usable, numerator / jnp.where(usable, denominator, 1), 0)


def norm_direction_loss(
  student_embeddings: jax.Array, teacher_embeddings: jax.Array, class_means: jax.Array, labels: jax.Array
) -> jax.Array:
  """ND: `1 - <s, e> / max(||s||, ||t||)` with `e` the unit vector towards the teacher's mean of the example's class.

  While the student's embedding is shorter than the teacher's of the same image, growing and turning it both pay; from
  then on it is `1 - cos(s, e)`, and length has no gradient any more.

  Args:
    student_embeddings: `[B, D]`, pooled, after the last activation, and mapped to the teacher's width where it
      differs.
    teacher_embeddings: `[B, D]` of the same (augmented) images. No gradient.
    class_means: `[classes, D]` of the same teacher, see `class_means`. No gradient.
    labels: `[B]` integers. An example whose label names no class has the loss 1 and no gradient.

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
  student, teacher = widen(student_embeddings), widen(jax.lax.stop_gradient(teacher_embeddings))
  student_norm, teacher_norm = safe_norm(student), safe_norm(teacher)
  # where, not maximum: at equal lengths the student's branch alone, not half of each
  longer = jnp.where(student_norm >= teacher_norm, student_norm, teacher_norm)
  return 1 - _ratio(jnp.sum(student * towards, axis=1), longer)


def direction_only_loss(student_embeddings: jax.Array, class_means: jax.Array, labels: jax.Array) -> jax.Array:
  """The direction half of ND: `1 - cos(s, e)` with `e` towards the teacher's mean of the example's class.

  Args:
    student_embeddings: `[B, D]`, in the teacher's width.
    class_means: `[classes, D]` of the teacher. No gradient. For the control against the teacher's embedding of each
      image, pass the teacher's embeddings here and `jnp.arange(B)` as labels.
    labels: `[B]` integers. An example whose label names no class has the loss 1 and no gradient.

  Returns:
    `[B]` in [0, 2]. Does not depend on the length of the student's embeddings; 1 for a zero one.

  Raises:
    ValueError: if the widths differ or `labels` are not integers `[B]`.

  Cost: nothing to speak of.

  References:
    Wang et al. (arXiv 2305.17007), an ablation of `norm_direction_loss`.
  """
  towards = _directions("direction_only_loss", student_embeddings, class_means, labels)
  return 1 - jnp.sum(unit(widen(student_embeddings)) * towards, axis=1)


def norm_only_loss(student_embeddings: jax.Array, teacher_embeddings: jax.Array) -> jax.Array:
  """The length half of ND: `1 - ||s|| / max(||s||, ||t||)`, zero once the student's embedding is the longer one.

  With `direction_only_loss` it makes up the whole: `1 - nd = (1 - direction) * (1 - norm)`. That this is the paper's
  ablation of the norm is unverified.

  Args:
    student_embeddings: `[B, D]`; the width may differ from the teacher's.
    teacher_embeddings: `[B, D_t]` of the same images. No gradient.

  Returns:
    `[B]` in [0, 1].

  Raises:
    ValueError: if the embeddings are not matrices with equally many rows.

  Cost: nothing to speak of.

  References:
    Wang et al. (arXiv 2305.17007).
  """
  for side, x in (("student_embeddings", student_embeddings), ("teacher_embeddings", teacher_embeddings)):
    check_rank("norm_only_loss", side, x, 2)
  if student_embeddings.shape[0] != teacher_embeddings.shape[0]:
    raise ValueError(
      f"norm_only_loss: {student_embeddings.shape[0]} student_embeddings and {teacher_embeddings.shape[0]} "
      "teacher_embeddings must be of the same examples"
    )
  student_norm = safe_norm(widen(student_embeddings))
  teacher_norm = safe_norm(widen(jax.lax.stop_gradient(teacher_embeddings)))
  shorter = student_norm < teacher_norm
  return jnp.where(shorter, 1 - _ratio(student_norm, jnp.where(shorter, teacher_norm, 1)), 0)
