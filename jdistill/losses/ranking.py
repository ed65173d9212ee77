"""Losses that compare the order in which student and teacher rank the classes."""

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.losses._checks import check_classes, check_temperature, student_teacher
from jdistill.ops.checks import check_labels, check_same_shape, keep, known, leading_mask, outside_range
from jdistill.ops.logits import finite_logits, probs
from jdistill.ops.precision import widen


def teacher_optimal_permutation(teacher_logits: jax.Array, labels: jax.Array) -> jax.Array:
  """The order of classes a student should learn: the true one first, the others by falling teacher logit.

  Args:
    teacher_logits: `[..., classes]`. No gradient. Equal ones keep the order of their indices.
    labels: `[...]` integers in `[0, classes)`. For others the teacher's own order results.

  Returns:
    `[..., classes]` int32, the classes from first to last.

  Raises:
    ValueError: if `labels` are not integers of the leading shape of `teacher_logits`; soft or mixed labels have no
      first class.

  Cost: a sort, `classes * log(classes)` per example.

  References:
    "PLD: A Choice-Theoretic List-Wise Knowledge Distillation" (arXiv 2506.12542), the teacher-optimal permutation.
  """
  name = "teacher_optimal_permutation"
  check_classes(name, teacher_logits)
  labels = check_labels(name, labels, np.shape(teacher_logits)[:-1])
  scores = widen(jax.lax.stop_gradient(jnp.asarray(teacher_logits)))
  own = jax.nn.one_hot(labels, scores.shape[-1], dtype=bool)
  # the true class must win against an infinite logit of another one as well
  keys = jnp.where(own, jnp.inf, jnp.minimum(scores, jnp.finfo(scores.dtype).max))
  return jnp.argsort(-keys, axis=-1, stable=True).astype(jnp.int32)


def plackett_luce_nll(
  student_logits: jax.Array, permutation: jax.Array, weights: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
  """Weighted negative log likelihood of an order: `sum_k w_k (logsumexp(s_k, ..., s_C) - s_k)`, `s_k = z[perm_k]`.

  Under the Plackett-Luce model classes are drawn one after the other without replacement, in proportion to `exp(z)`;
  step `k` is the choice among those that are left, so the last step costs nothing. Convex in the logits and unchanged
  when a constant is added to them. Weights `(1, 0, ..., 0)` give cross entropy, all equal to 1 ListMLE, a falling
  sequence position-aware ListMLE.

  Args:
    student_logits: `[..., classes]`. Minus infinity masks a class out: at the end of the order it costs nothing, before
      another class about 1e30 times its step's weight.
    permutation: `[..., classes]` integers, the classes from first to last.
    weights: `[..., classes]` or `[classes]`, one per **step** (not per class), used as they are. No gradient.
    where: `[...]` or a leading part of it; the loss is 0 where it is false.

  Returns:
    `[...]` in nats times weight, one value per example. NaN where traced code has a number outside `[0, classes)` among
    `permutation`, which it cannot refuse.

  Raises:
    ValueError: if the shapes do not match, `permutation` is not of integers, or it is seen to leave `[0, classes)`.

  Cost: a gather and a running log-sum-exp from the last step to the first, `classes` per example.

  References:
    Xia et al., "Listwise Approach to Learning to Rank" (ICML 2008), for equal weights; "PLD: A Choice-Theoretic
    List-Wise Knowledge Distillation" (arXiv 2506.12542), for the weighted form.
  """
  name = "plackett_luce_nll"
  check_same_shape(name, student_logits=student_logits, permutation=permutation)
  check_classes(name, student_logits)
  given, shape = permutation, np.shape(student_logits)
  permutation, weights = jnp.asarray(permutation), jnp.asarray(weights)
  if not jnp.issubdtype(permutation.dtype, jnp.integer):
    raise ValueError(f"{name}: permutation must be of integers, got {permutation.dtype}")
  if weights.shape not in (shape, shape[-1:]):
    raise ValueError(f"{name}: weights {weights.shape} must be {shape} or {shape[-1:]}")
  if known(given) and (outside := outside_range(given, shape[-1])):
    raise ValueError(f"{name}: permutation must be in [0, {shape[-1]}), got {outside}")
  mask = leading_mask(name, where, shape[:-1])
  weights = keep(jnp.broadcast_to(jax.lax.stop_gradient(weights), shape), mask)
  return keep(_nll(keep(widen(student_logits), mask), keep(permutation, mask), weights), mask)


def _nll(student: jax.Array, permutation: jax.Array, weights: jax.Array) -> jax.Array:
  student = finite_logits(student)
  # A constant changes nothing, but a running log-sum-exp of large numbers rounds what they differ by.
  student = student - jax.lax.stop_gradient(jnp.max(student, axis=-1, keepdims=True))
  # a negative number would count from the end; one beyond the end gives NaN
  places = jnp.where(permutation < 0, student.shape[-1], permutation)
  ordered = jnp.take_along_axis(student, places, axis=-1, mode="fill", fill_value=jnp.nan)
  terms = jax.lax.cumlogsumexp(ordered, axis=ordered.ndim - 1, reverse=True) - ordered
  return jnp.sum(weights.astype(terms.dtype) * terms, axis=-1)


def pld_loss(
  student_logits: jax.Array,
  teacher_logits: jax.Array,
  labels: jax.Array,
  *,
  temperature: float = 1.0,
  where: jax.Array | None = None,
) -> jax.Array:
  """PLD: rank the true class first and the others as the teacher does, each step weighted by the teacher's belief.

  `sum_k t_k (logsumexp(s_k, ..., s_C) - s_k)` with the student's logits `s` in the order of
  `teacher_optimal_permutation` and `t = softmax(teacher_logits / T)` in the same order. It replaces the sum of cross
  entropy and a distillation term: the first step *is* the cross entropy, weighted by the teacher's probability of the
  true class, so that a teacher that errs on an example trusts its label less. A near-uniform teacher brings nothing.

  Args:
    student_logits: `[..., classes]`; the temperature does not touch them.
    teacher_logits: `[..., classes]`. No gradient. NaN in one gives NaN, although the sort would hide it.
    labels: `[...]` integers in `[0, classes)`. Values outside give the loss 0 for that example; check them on the host.
    temperature: `T > 0` of the weights; 1 on ImageNet and 4 on CIFAR-100 in the paper. Sweep it. The student's side has
      none, so there is no `scale_t2`: no gradient shrinks with `T`.
    where: `[...]` or a leading part of it; the loss is 0 where it is false.

  Returns:
    `[...]` in nats, one value per example.

  Raises:
    ValueError: if the shapes do not match, there is one class, labels are not integers (soft or mixed labels have no
      first class), or `temperature <= 0`.

  Cost: a sort without gradient, `classes * log(classes)` per example, and `plackett_luce_nll`.

  References:
    "PLD: A Choice-Theoretic List-Wise Knowledge Distillation" (arXiv 2506.12542), the loss printed there; no code of
    the authors was found.
  """
  name = "pld_loss"
  check_temperature(name, temperature)
  student, teacher, mask = student_teacher(name, student_logits, teacher_logits, where, least_classes=2)
  labels = check_labels(name, labels, student.shape[:-1])
  permutation = teacher_optimal_permutation(teacher, labels)
  weights = jnp.take_along_axis(probs(teacher, temperature), permutation, axis=-1)
  known_label = (labels >= 0) & (labels < teacher.shape[-1])
  return keep(jnp.where(known_label, _nll(student, permutation, weights), 0), mask)
