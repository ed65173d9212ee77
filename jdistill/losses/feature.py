"""Losses that compare feature maps of the same examples, place by place."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.ops.checks import (
  check_at_least,
  check_batches,
  check_rank,
  check_same_shape,
  flat_rows,
  keep,
  known,
  leading_mask,
)
from jdistill.ops.logits import finite_logits
from jdistill.ops.pairwise import safe_norm, unit
from jdistill.ops.pooling import adaptive_average_pool
from jdistill.ops.precision import widen


def _difference(name: str, student: jax.Array, teacher: jax.Array) -> jax.Array:
  check_same_shape(name, student_features=student, teacher_features=teacher)
  student, teacher = widen(student), widen(teacher)
  if student.ndim < 2:
    raise ValueError(f"{name}: features need a batch axis and at least one more, got {student.shape}")
  return student - jax.lax.stop_gradient(teacher)


def _mean_square(difference: jax.Array) -> jax.Array:
  return jnp.mean(flat_rows(jnp.square(difference)), axis=1)


def hint_loss(student_features: jax.Array, teacher_features: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
  """FitNets' hint: the mean squared difference `mean((r(f_s) - f_t)^2)` over all places and channels.

  The regressor `r` that brings the student's map to the teacher's shape is trained with the student and belongs to
  the caller.

  Args:
    student_features: `[B, ..., channels]`, after the regressor.
    teacher_features: the same shape. No gradient.
    where: `[B]`, or `[B, ...]` with some or all of the axes that follow: only these places enter the mean.

  Returns:
    `[B]`, mean over the (kept) elements of each example; 0 for examples without any. The usual weight is 100.

  Raises:
    ValueError: if the shapes differ, there is no axis beside the batch's, or `where` is not a leading part of the
      shape.

  Cost: one pass over the maps.

  References:
    Romero et al., "FitNets: Hints for Thin Deep Nets" (arXiv 1412.6550), eq. 3 (number unverified), whose half sum
    over elements is here their mean, the form that benchmarks use with weight 100.
  """
  name = "hint_loss"
  difference = _difference(name, student_features, teacher_features)
  kept = leading_mask(name, where, difference.shape)
  if kept is None:
    return _mean_square(difference)
  # zeroed before squaring, so that no excluded value can overflow into a gradient
  total = jnp.sum(flat_rows(jnp.square(keep(difference, kept))), axis=1)
  count = jnp.sum(flat_rows(keep(jnp.ones(difference.shape, difference.dtype), kept)), axis=1)
  return total / jnp.maximum(count, 1)


def attention_map(features: jax.Array, *, power: float = 2.0) -> jax.Array:
  """Where a network looks: `A = v / ||v||_2` with `v_hw = mean_c |f_hwc|^power`.

  Args:
    features: `[B, ..., channels]`, such as `[B, H, W, channels]` or tokens `[B, L, channels]`.
    power: of the activations; 2 in the paper's experiments, larger ones look at the strongest places.

  Returns:
    `[B, places]` with Euclidean norm 1, entries in [0, 1]; zero, with the gradient zero, for a map of zeros.
    Does not depend on the scale of `features`.

  Raises:
    ValueError: if `features` has fewer than three axes or `power < 1`.

  Cost: one pass over the map.

  References:
    Zagoruyko and Komodakis, "Paying More Attention to Attention" (arXiv 1612.03928), sec. 3.1. One public
    implementation raises without the absolute value, which differs for odd powers.
  """
  name = "attention_map"
  x = widen(features)
  if x.ndim < 3:
    raise ValueError(f"{name}: features must be [B, ..., channels] with places, got {x.shape}")
  check_at_least(name, 1, power=power)
  x = x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])  # [B, places, channels]
  # the result does not depend on the scale, so a constant one keeps the powers in range
  largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=(1, 2), keepdims=True))
  x = x / jnp.where(largest > 0, largest, 1)
  return unit(jnp.mean(_absolute_power(x, power), axis=-1))


def _absolute_power(x: jax.Array, power: float) -> jax.Array:
  """`|x|^power`; whole powers as products, since a logarithm and an exponential of every entry take longer than the
  network that made the map."""
  if not known(power) or not float(power).is_integer():
    return jnp.abs(x) ** power
  return jax.lax.integer_pow(x if power % 2 == 0 else jnp.abs(x), int(power))


def attention_loss(
  student_features: jax.Array, teacher_features: jax.Array, *, power: float = 2.0, where: jax.Array | None = None
) -> jax.Array:
  """Attention transfer: the mean squared difference of the two attention maps of one stage.

  `mean_hw (A(f_s) - A(f_t))^2`; add up the stages. Channel counts may differ. Where the maps `[B, H, W, channels]`
  differ in size, the larger one is pooled to the smaller (in each direction).

  Args:
    student_features: `[B, H, W, channels_s]`, or tokens `[B, L, channels_s]`.
    teacher_features: the same rank. No gradient.
    power: see `attention_map`.
    where: `[B]`; the loss is 0 where it is false.

  Returns:
    `[B]`, mean over places. The usual weight is 1000 on the sum over stages.

  Raises:
    ValueError: if ranks, batch sizes or numbers of tokens differ, there are fewer than three axes, or `power < 1`.

  Cost: one pass over the maps.

  References:
    Zagoruyko and Komodakis, "Paying More Attention to Attention" (arXiv 1612.03928), eq. 2 (number unverified). The
    paper writes the norm of the difference (unverified); the mean of squares is that of the released code, to which
    the weight 1000 belongs.
  """
  name = "attention_loss"
  check_rank(name, "teacher_features", teacher_features, np.ndim(student_features))
  check_batches(name, student_features, teacher_features)
  mask = leading_mask(name, where, np.shape(student_features)[:1])
  student, teacher = keep(widen(student_features), mask), keep(jax.lax.stop_gradient(widen(teacher_features)), mask)
  if student.ndim == 4:
    size = tuple(min(student.shape[i], teacher.shape[i]) for i in (1, 2))
    student, teacher = (x if x.shape[1:3] == size else adaptive_average_pool(x, size) for x in (student, teacher))
  if student.shape[:-1] != teacher.shape[:-1]:
    raise ValueError(f"{name}: places of student {student.shape} and teacher {teacher.shape} differ")
  difference = attention_map(student, power=power) - attention_map(teacher, power=power)
  return jnp.mean(jnp.square(difference), axis=-1)


def _hcl_level(student: jax.Array, teacher: jax.Array, sizes: tuple[int, ...]) -> jax.Array:
  if student.ndim == 2:  # the pooled vector is a map of one place
    student, teacher = (x[:, None, None] for x in (student, teacher))
  check_rank("review_hcl_loss", "student_features", student, 4)
  total = _mean_square(_difference("review_hcl_loss", student, teacher))
  weight, weights = 1.0, 1.0
  for size in sizes:
    if size >= min(student.shape[1:3]):
      continue
    weight /= 2
    weights += weight
    pooled = (adaptive_average_pool(x, size) for x in (student, teacher))
    total = total + weight * _mean_square(_difference("review_hcl_loss", *pooled))
  return total / weights


def review_hcl_loss(
  student_features, teacher_features, *, sizes: tuple[int, ...] = (4, 2, 1), where: jax.Array | None = None
) -> jax.Array:
  """ReviewKD's hierarchical context loss: squared differences at full size and after pooling to ever fewer places.

  `sum_levels (mse(f_s, f_t) + sum_k 2^-k mse(pool_k f_s, pool_k f_t)) / (1 + sum_k 2^-k)`, where `k = 1, 2, ...`
  counts the `sizes` that are smaller than the map.

  Args:
    student_features: one map `[B, H, W, channels]`, a pooled vector `[B, channels]`, or a sequence of them, one per
      level: the outputs of the fusion modules, already in the teacher's shapes.
    teacher_features: the same shapes; before the activation in the paper. No gradient.
    sizes: sides of the pooled maps, falling.
    where: `[B]`; the loss is 0 where it is false.

  Returns:
    `[B]`, mean over elements within each size, sum over levels. Typical weights are 0.6 to 8.

  Raises:
    ValueError: if the numbers of levels or the shapes of a level differ, or a level has neither rank 2 nor 4.

  Cost: a few passes over the maps.

  References:
    Chen et al., "Distilling Knowledge via Knowledge Review" (arXiv 2104.09044), sec. 3.3. Weights as in the released
    code: a size that does not fit is skipped without halving the weight of the next.
  """
  one = not isinstance(student_features, (list, tuple))
  students = [student_features] if one else list(student_features)
  teachers = [teacher_features] if one else list(teacher_features)
  if not students or len(students) != len(teachers):
    raise ValueError(f"review_hcl_loss: {len(students)} levels of the student and {len(teachers)} of the teacher")
  total = 0.0
  for student, teacher in zip(students, teachers, strict=True):
    check_same_shape("review_hcl_loss", student_features=student, teacher_features=teacher)
    mask = leading_mask("review_hcl_loss", where, np.shape(student)[:1])
    total = total + _hcl_level(keep(widen(student), mask), keep(widen(teacher), mask), sizes)
  return total


def logit_gap_weights(student_logits: jax.Array, teacher_logits: jax.Array) -> jax.Array:
  """KD^3's weight of an example: `sigmoid(||z_s - z_t||_2)`, larger where the networks disagree.

  Args:
    student_logits: `[B, classes]`. No gradient. Classes that both sides mask out with minus infinity do not count.
    teacher_logits: `[B, classes]`. No gradient.

  Returns:
    `[B]` in [0.5, 1].

  Raises:
    ValueError: if the shapes differ or are not matrices.

  Cost: nothing to speak of.

  References:
    Tang et al., "Distribution Shift Matters for Knowledge Distillation with Webly Collected Images" (arXiv
    2307.11469), as in the released code.
  """
  check_rank("logit_gap_weights", "student_logits", student_logits, 2)
  check_same_shape("logit_gap_weights", student_logits=student_logits, teacher_logits=teacher_logits)
  difference = finite_logits(student_logits) - finite_logits(teacher_logits)
  return jax.lax.stop_gradient(jax.nn.sigmoid(safe_norm(difference)))


def weighted_feature_mse(
  student_features: jax.Array, teacher_features: jax.Array, weights: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
  """KD^3's weighted feature alignment: `w_i * mean((transfer(f_s) - f_t)^2)`.

  Args:
    student_features: `[B, ..., channels]`, after the transfer block.
    teacher_features: the same shape. No gradient.
    weights: `[B]`, for KD^3 those of `logit_gap_weights`. No gradient. Zeros leave padding out.
    where: `[B]`; the loss is 0 where it is false, whatever the weight is.

  Returns:
    `[B]`, mean over the elements of each example.

  Raises:
    ValueError: if the shapes differ or `weights` is not `[B]`.

  Cost: one pass over the maps.

  References:
    Tang et al., "Distribution Shift Matters for Knowledge Distillation with Webly Collected Images" (arXiv
    2307.11469), as in the released code.
  """
  name = "weighted_feature_mse"
  difference = _difference(name, student_features, teacher_features)
  if np.shape(weights) != difference.shape[:1]:
    raise ValueError(f"{name}: weights must have shape {difference.shape[:1]}, got {np.shape(weights)}")
  mask = leading_mask(name, where, difference.shape[:1])
  weights = keep(jax.lax.stop_gradient(jnp.asarray(weights)).astype(difference.dtype), mask)
  return weights * _mean_square(keep(difference, weights != 0))
