"""Losses that weight what a teacher says of the true class apart from what it says of the others."""

import warnings

import jax
import jax.numpy as jnp

from jdistill.losses._checks import check_classes, check_temperature, scaled, student_teacher
from jdistill.ops.checks import check_labels, check_positive, keep
from jdistill.ops.logits import EXCLUDED, log_probs
from jdistill.ops.precision import widen


def _own_class(name: str, labels: jax.Array, shape: tuple[int, ...], warn: bool = False) -> jax.Array:
  """`[..., classes]` booleans, true at the label or at the largest entry of a soft one; all false outside the range."""
  labels = jnp.asarray(labels)
  if jnp.issubdtype(labels.dtype, jnp.floating) and labels.shape == shape:
    if warn:
      warnings.warn(f"{name}: soft labels are replaced by their largest entry", stacklevel=3)
    labels = jnp.argmax(labels, axis=-1)
  return jax.nn.one_hot(check_labels(name, labels, shape[:-1]), shape[-1], dtype=bool)


def _split(log_p: jax.Array, own: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Logarithms of: the own class `[...]`, all others together `[...]`, the others among themselves (0 at the own)."""
  others = jnp.where(own, EXCLUDED, log_p)
  rest = jax.nn.logsumexp(others, axis=-1)
  return jnp.sum(jnp.where(own, log_p, 0), axis=-1), rest, jnp.where(own, 0, others - rest[..., None])


def dkd_loss(
  student_logits: jax.Array,
  teacher_logits: jax.Array,
  labels: jax.Array,
  *,
  temperature: float = 4.0,
  alpha: float = 1.0,
  beta: float = 8.0,
  scale_t2: bool = True,
  where: jax.Array | None = None,
) -> jax.Array:
  """DKD: `T^2 (alpha * TCKD + beta * NCKD)`, the two parts of the KL divergence with weights of their own.

  With `s, t = softmax(z / T)`: TCKD is the divergence of `(t_y, 1 - t_y)` from `(s_y, 1 - s_y)`, NCKD that between the
  distributions over the other classes, renormalised. Since `KL(t || s) = TCKD + (1 - t_y) NCKD`, ordinary KD
  suppresses what a confident teacher says of the other classes, and `beta` restores it. Without the cross entropy
  and the linear warm-up (20 epochs on CIFAR-100, 1 on ImageNet) that the method adds and multiplies.

  Args:
    student_logits: `[..., classes]`.
    teacher_logits: `[..., classes]`. No gradient.
    labels: `[...]` integers in `[0, classes)`; values outside give the loss 0 for that example. Or `[..., classes]`
      soft labels, whose largest entry counts, with a warning.
    temperature: `T > 0`; 4 on CIFAR-100, 1 on ImageNet.
    alpha: weight of the true class against the rest; 1.
    beta: weight of the others among themselves; on CIFAR-100 8, 6 or 2 by pair of networks, 0.5 on ImageNet.
    scale_t2: multiply by `T^2`.
    where: `[...]` or a leading part of it; the loss is 0 where it is false.

  Returns:
    `[...]` in nats (times `T^2`), one value per example.

  Raises:
    ValueError: if the shapes do not match, there are fewer than three classes (two leave one other, of which there is
      nothing to say), labels are neither integers nor soft ones, or `temperature <= 0`.

  Cost: two softmaxes over all classes and two over the others.

  References:
    Zhao et al., "Decoupled Knowledge Distillation" (arXiv 2203.08679), eqs. 6-7 (numbers unverified). The true class is
    excluded exactly, where the authors' code subtracts 1000 from its logit.
  """
  name = "dkd_loss"
  check_temperature(name, temperature)
  student, teacher, mask = student_teacher(name, student_logits, teacher_logits, where, least_classes=3)
  own = _own_class(name, labels, student.shape, warn=True)
  own_s, rest_s, others_s = _split(log_probs(student, temperature), own)
  own_t, rest_t, others_t = _split(log_probs(teacher, temperature), own)
  target = jnp.exp(own_t) * (own_t - own_s) + jnp.exp(rest_t) * (rest_t - rest_s)
  non_target = jnp.sum(jnp.exp(others_t) * (others_t - others_s), axis=-1)
  some = rest_t > 1e-10 * EXCLUDED  # else all others are masked out, and the teacher says nothing of them
  loss = jnp.where(jnp.any(own, axis=-1), alpha * target + beta * jnp.where(some, non_target, 0), 0)
  return keep(scaled(loss, temperature, scale_t2), mask)


def _ofa_weights(teacher, own, exponent, temperature):
  log_t = log_probs(teacher, temperature)
  # log1p and expm1 keep the small difference that (1 + p)^exponent - 1 would round away
  return jnp.where(own, jnp.expm1(exponent * jnp.log1p(jnp.exp(log_t))), jnp.exp(exponent * log_t))


def ofa_target_weights(
  teacher_logits: jax.Array, labels: jax.Array, *, exponent: float = 1.0, temperature: float = 1.0
) -> jax.Array:
  """OFA's targets: `(t + m)^exponent - m` with `t = softmax(z_t / T)` and `m` one-hot; `(1 + t_y)^exponent - 1` there.

  Args:
    teacher_logits: `[..., classes]`. No gradient.
    labels: `[...]` integers in `[0, classes)`; values outside give zeros. Or `[..., classes]` soft (mixed) labels,
      whose largest entry counts.
    exponent: > 0. 1 gives `t`; above 1 the true class gains and small others fade.
    temperature: `T > 0`.

  Returns:
    `[..., classes]`, non-negative; they sum to 1 for `exponent = 1` only.

  Raises:
    ValueError: if the shapes do not match, labels are neither integers nor soft ones, `exponent <= 0` or
      `temperature <= 0`.

  Cost: a softmax.

  References:
    Hao et al., "One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation" (arXiv
    2310.19444), as in the released code.
  """
  name = "ofa_target_weights"
  check_temperature(name, temperature)
  check_positive(name, exponent=exponent)
  check_classes(name, teacher_logits)
  teacher = jax.lax.stop_gradient(widen(teacher_logits))
  own = _own_class(name, labels, teacher.shape)
  return jnp.where(jnp.any(own, axis=-1, keepdims=True), _ofa_weights(teacher, own, exponent, temperature), 0)


def ofa_loss(
  student_logits: jax.Array,
  teacher_logits: jax.Array,
  labels: jax.Array,
  *,
  exponent: float = 1.0,
  temperature: float = 1.0,
  scale_t2: bool = True,
  where: jax.Array | None = None,
) -> jax.Array:
  """OFA for one exit: `-sum_c w_c log softmax(z_s / T)_c` with the weights of `ofa_target_weights`.

  For networks whose features have nothing in common: every stage of the student gets an exit, and each exit and the
  final logits are compared with the teacher's *final* logits. The method adds these losses, each with an exponent of
  its own, and the cross entropy.

  Args:
    student_logits: `[..., classes]`, of an exit or of the student itself.
    teacher_logits: `[..., classes]`. No gradient.
    labels: `[...]` integers in `[0, classes)`; values outside give the loss 0 for that example. Or `[..., classes]`
      soft (mixed) labels, whose largest entry counts.
    exponent: > 0; 1 is cross entropy against the teacher. 1 to 1.5 in the paper; lower it when unstable.
    temperature: `T > 0`, on both sides; 1 in the paper.
    scale_t2: multiply by `T^2`.
    where: `[...]` or a leading part of it; the loss is 0 where it is false.

  Returns:
    `[...]` in nats times weight (times `T^2`), one value per example.

  Raises:
    ValueError: if the shapes do not match, labels are neither integers nor soft ones, `exponent <= 0` or
      `temperature <= 0`.

  Cost: two softmaxes.

  References:
    Hao et al., "One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation" (arXiv
    2310.19444). Differs from the released code in taking a log-softmax instead of the logarithm of a softmax.
  """
  name = "ofa_loss"
  check_temperature(name, temperature)
  check_positive(name, exponent=exponent)
  student, teacher, mask = student_teacher(name, student_logits, teacher_logits, where)
  own = _own_class(name, labels, student.shape)
  weights = _ofa_weights(teacher, own, exponent, temperature)
  loss = -jnp.sum(weights * log_probs(student, temperature), axis=-1)
  return keep(scaled(jnp.where(jnp.any(own, axis=-1), loss, 0), temperature, scale_t2), mask)
