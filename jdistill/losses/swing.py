"""Distillation that softens and blurs what a teacher says at private positions of a sequence.

Only the abstract of the paper was read. It fixes that the temperature depends on how likely a position is private and
that noise enters the soft targets; the formulas here are this library's reading of it (unverified).
"""

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.losses._checks import check_logits, scaled
from jdistill.ops.checks import check_positive, keep, known, leading_mask
from jdistill.ops.logits import is_excluded, log_probs
from jdistill.ops.precision import widen

_MECHANISMS = {"laplace": jax.random.laplace, "gaussian": jax.random.normal}
_PLACES = ("probabilities", "logits")


def swing_temperature(rho: jax.Array, *, tau_lo: float = 1.0, tau_hi: float = 10.0) -> jax.Array:
  """A temperature per position: `tau_lo + (tau_hi - tau_lo) * rho`, higher (flatter targets) where it is private.

  The direction is the one under which private content should be exposed less (unverified); as a control that should
  fail, pass `1 - rho`.

  Args:
    rho: any shape, how likely a position is private, in [0, 1]; from a detector, 0 or 1 from a pattern. No gradient.
    tau_lo: of ordinary positions, > 0; 1 to 2.
    tau_hi: of private ones, at least `tau_lo`; 10 and more.

  Returns:
    The shape of `rho`. NaN where `rho` is outside [0, 1] in traced code, where it cannot raise.

  Raises:
    ValueError: if `rho` is seen to leave [0, 1], `tau_lo <= 0` or `tau_lo > tau_hi`.

  Cost: none.

  References:
    "Swing Distillation: A Privacy-Preserving Knowledge Distillation Framework" (arXiv 2212.08349), abstract.
  """
  check_positive("swing_temperature", tau_lo=tau_lo, tau_hi=tau_hi)
  if known(tau_lo) and known(tau_hi) and not tau_lo <= tau_hi:
    raise ValueError(f"swing_temperature: needs 0 < tau_lo <= tau_hi, got {tau_lo} and {tau_hi}")
  if known(rho):
    values = np.asarray(rho, np.float32)
    if not ((values >= 0) & (values <= 1)).all():
      raise ValueError(f"swing_temperature: rho must be in [0, 1], got {values.min()} to {values.max()}")
  rho = jax.lax.stop_gradient(widen(rho))
  return jnp.where((rho >= 0) & (rho <= 1), tau_lo + (tau_hi - tau_lo) * rho, jnp.nan)


def noisy_soft_targets(
  key: jax.Array,
  teacher_logits: jax.Array,
  tau: jax.Array,
  *,
  epsilon: float,
  mechanism: str = "laplace",
  sensitivity: float = 1.0,
  noise_on: str = "probabilities",
) -> jax.Array:
  """Soft targets with noise: `softmax(z_t / tau) + noise`, negative entries set to 0, renormalised.

  Noise on the targets alone gives **no** formal differential privacy.

  Args:
    key: `jax.random.key`; a fresh one every step.
    teacher_logits: `[..., classes]`. No gradient.
    tau: `[...]`, temperatures > 0, as from `swing_temperature`. No gradient.
    epsilon: the privacy budget, > 0: larger is less noise, infinity none.
    mechanism: `"laplace"` or `"gaussian"`.
    sensitivity: the scale of the noise is `sensitivity / epsilon` (the standard deviation for Gaussian noise).
    noise_on: `"probabilities"`, or `"logits"`: noise before the softmax, and nothing to cut off.

  Returns:
    `[..., classes]` probabilities; uniform ones where nothing is left above 0. Classes that the teacher masks out with
    minus infinity have none.

  Raises:
    ValueError: if `tau` is not of the leading shape of `teacher_logits`, `epsilon <= 0`, `sensitivity <= 0`, or
      `mechanism` or `noise_on` is none of these.

  Cost: a softmax and as many random numbers.

  References:
    "Swing Distillation: A Privacy-Preserving Knowledge Distillation Framework" (arXiv 2212.08349), abstract.
  """
  name = "noisy_soft_targets"
  logits = jax.lax.stop_gradient(widen(teacher_logits))
  if np.shape(tau) != logits.shape[:-1]:
    raise ValueError(f"{name}: tau must have shape {logits.shape[:-1]}, got {np.shape(tau)}")
  check_positive(name, epsilon=epsilon, sensitivity=sensitivity)
  if mechanism not in _MECHANISMS:
    raise ValueError(f"{name}: mechanism must be one of {sorted(_MECHANISMS)}, got {mechanism!r}")
  if noise_on not in _PLACES:
    raise ValueError(f"{name}: noise_on must be one of {list(_PLACES)}, got {noise_on!r}")
  tau = jax.lax.stop_gradient(jnp.asarray(tau)).astype(logits.dtype)[..., None]
  noise = sensitivity / epsilon * _MECHANISMS[mechanism](key, logits.shape, logits.dtype)
  if noise_on == "logits":
    return jnp.exp(log_probs(logits + noise, tau))
  absent = is_excluded(logits)  # a class that the teacher masks out gets no noise
  present = (~absent | jnp.all(absent, axis=-1, keepdims=True)).astype(logits.dtype)
  noisy = present * jnp.maximum(jnp.exp(log_probs(logits, tau)) + noise, 0)
  total = jnp.sum(noisy, axis=-1, keepdims=True)
  empty = total == 0
  even = present / jnp.sum(present, axis=-1, keepdims=True)
  return jnp.where(empty, even, noisy / jnp.where(empty, 1, total))


def swing_kd_loss(
  key: jax.Array,
  student_logits: jax.Array,
  teacher_logits: jax.Array,
  rho: jax.Array,
  *,
  epsilon: float,
  tau_lo: float = 1.0,
  tau_hi: float = 10.0,
  mechanism: str = "laplace",
  sensitivity: float = 1.0,
  noise_on: str = "probabilities",
  scale_t2: bool = True,
  where: jax.Array | None = None,
) -> jax.Array:
  """Swing distillation per position: `KL(u || softmax(z_s / tau))` with `u` from `noisy_soft_targets`.

  `tau` is that of `swing_temperature`. If a cross entropy with hard labels is added, weight it by `1 - rho`: otherwise
  the student learns private positions from the data itself.

  Args:
    key: `jax.random.key`; a fresh one every step.
    student_logits: `[B, L, classes]` (or any `[..., classes]`).
    teacher_logits: the same shape. No gradient.
    rho: `[B, L]`, how likely a position is private, in [0, 1]. No gradient.
    epsilon: the privacy budget, > 0; infinity is no noise.
    tau_lo: temperature of ordinary positions, > 0.
    tau_hi: temperature of private positions, at least `tau_lo`.
    mechanism, sensitivity, noise_on: see `noisy_soft_targets`.
    scale_t2: multiply by `tau^2`, so that private positions teach as much as others: the recipe `swing` does not.
    where: `[B, L]` or `[B]`; the loss is 0 at excluded positions, as at padding.

  Returns:
    `[B, L]` in nats (times `tau^2`). For the mean divide the sum by the number of positions that count.

  Raises:
    ValueError: if the shapes do not match, `rho` is seen to leave [0, 1], or another argument is out of range.

  Cost: two softmaxes and a random number for each logit.

  References:
    "Swing Distillation: A Privacy-Preserving Knowledge Distillation Framework" (arXiv 2212.08349), abstract.
  """
  name = "swing_kd_loss"
  check_logits(name, student_logits, teacher_logits)
  student, teacher = widen(student_logits), widen(teacher_logits)
  if np.shape(rho) != student.shape[:-1]:
    raise ValueError(f"{name}: rho must have shape {student.shape[:-1]}, got {np.shape(rho)}")
  mask = leading_mask(name, where, student.shape[:-1])
  student, teacher = keep(student, mask), keep(teacher, mask)
  tau = swing_temperature(_outside_zero(rho, where), tau_lo=tau_lo, tau_hi=tau_hi).astype(student.dtype)
  targets = noisy_soft_targets(
    key, teacher, tau, epsilon=epsilon, mechanism=mechanism, sensitivity=sensitivity, noise_on=noise_on
  )
  log_targets = jnp.log(jnp.where(targets == 0, 1, targets))
  loss = jnp.sum(targets * (log_targets - log_probs(student, tau[..., None])), axis=-1)
  return keep(scaled(loss, tau, scale_t2), mask)


def _outside_zero(rho, where):
  """`rho` with 0 at excluded positions, on the host if it is there, so that `swing_temperature` can still check it."""
  if where is None:
    return rho
  if not known(rho) or not known(where):
    return keep(widen(rho), jnp.asarray(where).astype(bool))
  rho, where = np.asarray(rho), np.asarray(where).astype(bool)
  return np.where(where.reshape(where.shape + (1,) * (rho.ndim - where.ndim)), rho, 0)
