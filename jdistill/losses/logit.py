"""Losses that compare class scores of a student with a target distribution."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jdistill.losses._checks import check_labels, check_logits, check_same_shape, check_temperature
from jdistill.losses.pairwise import EXCLUDED
from jdistill.ops.precision import widen


def soft_cross_entropy(
  logits: jax.Array,
  label_logits: jax.Array,
  *,
  temperature: float = 1.0,
  axis: int = -1,
) -> jax.Array:
  """Cross entropy against a distribution given by logits: `-sum_c softmax(label_logits)_c log_softmax(logits)_c`.

  Differentiable in both arguments: learned labels (DATM) receive a gradient, so the label side is *not* stopped. For a
  fixed teacher pass `jax.lax.stop_gradient(teacher_logits)`.

  Args:
    logits: `[..., classes]` student logits.
    label_logits: `[..., classes]` logits of the target distribution, not probabilities.
    temperature: divides both sides before the softmax; no factor `temperature ** 2` is applied.
    axis: the class axis.

  Returns:
    `[...]` in nats, one value per example.

  Raises:
    ValueError: if the shapes differ (integer labels are the usual cause) or `temperature <= 0`.

  References:
    Guo et al., "Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching" (arXiv 2310.05773),
    sec. 3.3: the inner loss with soft labels.
  """
  if logits.shape != label_logits.shape:
    raise ValueError(
      f"soft_cross_entropy: logits {logits.shape} and label_logits {label_logits.shape} must have one shape; "
      "for integer labels use cross_entropy"
    )
  check_temperature("soft_cross_entropy", temperature)
  log_student = jax.nn.log_softmax(logits / temperature, axis=axis)
  target = jax.nn.softmax(label_logits / temperature, axis=axis)
  return -jnp.sum(target * log_student, axis=axis)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Cross entropy with integer labels: `-log_softmax(logits)[label]`.

  Args:
    logits: `[..., classes]`.
    labels: `[...]` integers in `[0, classes)`. Values outside give the loss 0 for that example, which no valid label
      does; check them on the host.

  Returns:
    `[...]` in nats, one value per example.

  Raises:
    ValueError: if `labels` is not an integer array of the leading shape of `logits`.
  """
  check_labels("cross_entropy", labels, logits.shape[:-1])
  return -jnp.sum(jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype) * jax.nn.log_softmax(logits), axis=-1)


def log_probs(logits: jax.Array, temperature: float | jax.Array = 1.0) -> jax.Array:
  """`log_softmax(logits / temperature)` over the last axis in float32 (or float64), at least -1e30.

  The floor keeps classes that are masked out with minus infinity from turning `0 * inf` into NaN; NaN stays NaN.
  """
  return jnp.maximum(jax.nn.log_softmax(widen(logits) / temperature, axis=-1), EXCLUDED)


def _log_pair(name, student_logits, teacher_logits, temperature):
  check_temperature(name, temperature)
  check_logits(name, student_logits, teacher_logits)
  return log_probs(student_logits, temperature), log_probs(jax.lax.stop_gradient(teacher_logits), temperature)


def _scaled(divergence, temperature, scale_t2):
  return divergence * temperature**2 if scale_t2 else divergence


def kl_divergence(
  student_logits: jax.Array, teacher_logits: jax.Array, *, temperature: float = 1.0, scale_t2: bool = True
) -> jax.Array:
  """The distillation term of KD: `T^2 KL(t || s) = T^2 sum_c t_c (log t_c - log s_c)`, with `s, t = softmax(z / T)`.

  Mode covering: the student pays for classes that the teacher finds likely and it does not. Its gradient is
  `T (s - t)`, which for large `T` becomes the difference of the centred logits divided by the number of classes.

  Args:
    student_logits: `[..., classes]`.
    teacher_logits: `[..., classes]`. No gradient.
    temperature: `T > 0`.
    scale_t2: multiply by `T^2`, so that gradients do not shrink with the temperature. Some codes leave it out.

  Returns:
    `[...]` in nats (times `T^2`): summed over classes, one value per example. Take the mean over examples only.

  Raises:
    ValueError: if the shapes differ or `temperature <= 0`.

  Cost: two softmaxes.

  References:
    Hinton et al., "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531), sec. 2.
  """
  student, teacher = _log_pair("kl_divergence", student_logits, teacher_logits, temperature)
  return _scaled(jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1), temperature, scale_t2)


def reverse_kl(
  student_logits: jax.Array, teacher_logits: jax.Array, *, temperature: float = 1.0, scale_t2: bool = True
) -> jax.Array:
  """The other direction, `T^2 KL(s || t) = T^2 sum_c s_c (log s_c - log t_c)`, with `s, t = softmax(z / T)`.

  Mode seeking: the student pays for classes that it finds likely and the teacher does not.

  Args, Returns, Raises, Cost: as for `kl_divergence`.

  References:
    A baseline of Cui et al., "Sinkhorn Distance Minimization for Knowledge Distillation" (arXiv 2402.17110), whose
    code weights it by 0.1.
  """
  student, teacher = _log_pair("reverse_kl", student_logits, teacher_logits, temperature)
  return _scaled(jnp.sum(jnp.exp(student) * (student - teacher), axis=-1), temperature, scale_t2)


def jeffreys_divergence(
  student_logits: jax.Array, teacher_logits: jax.Array, *, temperature: float = 1.0, scale_t2: bool = True
) -> jax.Array:
  """The mean of both directions, `T^2 (KL(t || s) + KL(s || t)) / 2`. Symmetric and unbounded.

  Args, Returns, Raises, Cost: as for `kl_divergence`.

  References:
    Cui et al., "Beyond Self-Supervision: A Simple Yet Effective Network Distillation Alternative to Improve Backbones"
    (arXiv 2103.05959): what its released code minimises (there with 1e-12 inside the logarithms) where the
    documentation says Jensen-Shannon. Jeffreys' own has no factor 1/2.
  """
  student, teacher = _log_pair("jeffreys_divergence", student_logits, teacher_logits, temperature)
  both = jnp.sum((jnp.exp(teacher) - jnp.exp(student)) * (teacher - student), axis=-1) / 2
  return _scaled(both, temperature, scale_t2)


def js_divergence(
  student_logits: jax.Array, teacher_logits: jax.Array, *, temperature: float = 1.0, scale_t2: bool = True
) -> jax.Array:
  """Jensen-Shannon: `T^2 (KL(s || m) + KL(t || m)) / 2` with `m = (s + t) / 2` and `s, t = softmax(z / T)`.

  Symmetric, at most `T^2 log 2`; so its gradient vanishes where student and teacher hardly overlap.

  Args, Returns, Raises, Cost: as for `kl_divergence`.

  References:
    Cui et al., "Beyond Self-Supervision: A Simple Yet Effective Network Distillation Alternative to Improve Backbones"
    (arXiv 2103.05959), the loss it describes.
  """
  student, teacher = _log_pair("js_divergence", student_logits, teacher_logits, temperature)
  middle = jnp.logaddexp(student, teacher) - math.log(2.0)
  both = jnp.sum(jnp.exp(student) * (student - middle) + jnp.exp(teacher) * (teacher - middle), axis=-1) / 2
  return _scaled(both, temperature, scale_t2)


def kd_loss(
  student_logits: jax.Array,
  teacher_logits: jax.Array,
  labels: jax.Array,
  *,
  temperature: float = 4.0,
  ce_weight: float = 0.1,
  kd_weight: float = 0.9,
) -> jax.Array:
  """KD: `ce_weight * CE(student, label) + kd_weight * T^2 KL(t || s)`, with `s, t = softmax(z / T)`.

  Args:
    student_logits: `[..., classes]`.
    teacher_logits: `[..., classes]`. No gradient.
    labels: `[...]` integers in `[0, classes)`. Others, such as -1, mark unlabelled examples, without the first term.
    temperature: `T > 0`, for the second term only. A saturated teacher says nothing at 1: try several.
    ce_weight: of the labels.
    kd_weight: of the teacher.

  Returns:
    `[...]` in nats, one value per example.

  Raises:
    ValueError: if shapes do not match, labels are not integers, or `temperature <= 0`.

  Cost: three softmaxes.

  References:
    Hinton et al., "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531), sec. 2; the default weights and
    temperature are those of the CIFAR benchmarks.
  """
  check_labels("kd_loss", labels, student_logits.shape[:-1])
  distilled = kl_divergence(student_logits, teacher_logits, temperature=temperature)
  return ce_weight * cross_entropy(widen(student_logits), labels) + kd_weight * distilled


def ensemble_soft_targets(
  teacher_logits: Sequence[jax.Array], *, weights: Sequence[float] | None = None, temperature: float = 1.0
) -> tuple[jax.Array, jax.Array]:
  """Average probabilities and average logits of several teachers: `sum_m w_m softmax(z_m / T)` and `sum_m w_m z_m`.

  The two say different things: probabilities are the target of MEAL V2's similarity loss, logits the input of its
  discriminator. As a target: `soft_cross_entropy(student_logits, jnp.log(probabilities))`.

  Args:
    teacher_logits: `M >= 1` arrays `[..., classes]`, or one `[M, ..., classes]`, with one order of classes. No
      gradient.
    weights: `M` non-negative numbers, divided by their sum; equal ones by default.
    temperature: `T > 0`, for the probabilities.

  Returns:
    `(probabilities [..., classes], logits [..., classes])`.

  Raises:
    ValueError: if there are no teachers, their shapes differ, there are not `M` weights, a weight is negative or all
      are 0, or `temperature <= 0`.

  Cost: one softmax per teacher.

  References:
    Shen and Savvides, "MEAL V2" (arXiv 2009.08453), sec. 3 (number unverified).
  """
  name = "ensemble_soft_targets"
  check_temperature(name, temperature)
  if len(teacher_logits) < 1:
    raise ValueError(f"{name}: needs at least one teacher")
  check_same_shape(name, **{f"teacher_logits[{m}]": z for m, z in enumerate(teacher_logits)})
  count = len(teacher_logits)
  weights = [1.0] * count if weights is None else [float(w) for w in weights]
  if len(weights) != count or min(weights) < 0 or sum(weights) <= 0:
    raise ValueError(f"{name}: weights must be {count} non-negative numbers that are not all 0, got {weights}")
  shares = [w / sum(weights) for w in weights]
  logits = [jax.lax.stop_gradient(widen(z)) for z in teacher_logits]
  probabilities = sum(share * jnp.exp(log_probs(z, temperature)) for share, z in zip(shares, logits, strict=True))
  return probabilities, sum(share * z for share, z in zip(shares, logits, strict=True))
