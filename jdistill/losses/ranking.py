"""Losses that compare the order in which student and teacher rank the classes."""

import jax
import jax.numpy as jnp

from jdistill.losses._checks import check_labels, check_logits, check_same_shape, check_temperature
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
  check_labels("teacher_optimal_permutation", labels, teacher_logits.shape[:-1])
  scores = widen(jax.lax.stop_gradient(teacher_logits))
  own = jax.nn.one_hot(labels, scores.shape[-1], dtype=bool)
  # the true class must win against an infinite logit of another one as well
  keys = jnp.where(own, jnp.inf, jnp.minimum(scores, jnp.finfo(scores.dtype).max))
  return jnp.argsort(-keys, axis=-1, stable=True).astype(jnp.int32)


def plackett_luce_nll(student_logits: jax.Array, permutation: jax.Array, weights: jax.Array) -> jax.Array:
  """Weighted negative log likelihood of an order: `sum_k w_k (logsumexp(s_k, ..., s_C) - s_k)`, `s_k = z[perm_k]`.

  Under the Plackett-Luce model classes are drawn one after the other without replacement, in proportion to `exp(z)`;
  step `k` is the choice among those that are left, so the last step costs nothing. Convex in the logits and unchanged
  when a constant is added to them. Weights `(1, 0, ..., 0)` give cross entropy, all equal to 1 ListMLE, a falling
  sequence position-aware ListMLE.

  Args:
    student_logits: `[..., classes]`.
    permutation: `[..., classes]` integers, the classes from first to last.
    weights: `[..., classes]` or `[classes]`, one per **step** (not per class), used as they are. No gradient.

  Returns:
    `[...]` in nats times weight, one value per example.

  Raises:
    ValueError: if the shapes do not match or `permutation` is not of integers.

  Cost: a gather and a running log-sum-exp from the last step to the first, `classes` per example.

  References:
    Xia et al., "Listwise Approach to Learning to Rank" (ICML 2008), for equal weights; "PLD: A Choice-Theoretic
    List-Wise Knowledge Distillation" (arXiv 2506.12542), for the weighted form.
  """
  name = "plackett_luce_nll"
  check_same_shape(name, student_logits=student_logits, permutation=permutation)
  if not jnp.issubdtype(permutation.dtype, jnp.integer):
    raise ValueError(f"{name}: permutation must be of integers, got {permutation.dtype}")
  if weights.shape not in (student_logits.shape, student_logits.shape[-1:]):
    raise ValueError(f"{name}: weights {weights.shape} must be {student_logits.shape} or {student_logits.shape[-1:]}")
  ordered = jnp.take_along_axis(widen(student_logits), permutation, axis=-1)
  terms = jax.lax.cumlogsumexp(ordered, axis=ordered.ndim - 1, reverse=True) - ordered
  steps = jnp.broadcast_to(jax.lax.stop_gradient(weights), terms.shape).astype(terms.dtype)
  return jnp.sum(steps * terms, axis=-1)


def pld_loss(
  student_logits: jax.Array, teacher_logits: jax.Array, labels: jax.Array, *, temperature: float = 1.0
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
    temperature: `T > 0` of the weights; 1 on ImageNet and 4 on CIFAR-100 in the paper. Sweep it.

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
  check_logits(name, student_logits, teacher_logits, least_classes=2)
  check_labels(name, labels, student_logits.shape[:-1])
  teacher = widen(jax.lax.stop_gradient(teacher_logits))
  permutation = teacher_optimal_permutation(teacher, labels)
  weights = jnp.take_along_axis(jax.nn.softmax(teacher / temperature, axis=-1), permutation, axis=-1)
  known = (labels >= 0) & (labels < teacher.shape[-1])
  return jnp.where(known, plackett_luce_nll(student_logits, permutation, weights), 0)
