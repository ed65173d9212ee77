"""Losses that compare class scores of a student with a target distribution.

Classes may be masked out with minus infinity on either side. One that both sides mask is as good as absent. One that
the target alone masks has the probability 0 there. One that the student alone masks has a log-probability of about
-1e30: a target that wants it makes the loss enormous, but finite, with the gradient of the limit.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.losses._checks import check_classes, check_temperature, log_pair, scaled
from jdistill.ops.checks import check_labels, check_same_shape, keep, known, leading_mask
from jdistill.ops.logits import finite_logits, log_probs, probs
from jdistill.ops.precision import widen


def soft_cross_entropy(
  logits: jax.Array,
  label_logits: jax.Array,
  *,
  temperature: float = 1.0,
  scale_t2: bool = True,
  axis: int = -1,
  where: jax.Array | None = None,
) -> jax.Array:
  """Cross entropy with a distribution given by logits: `-T^2 sum_c softmax(y / T)_c log_softmax(z / T)_c`.

  Differentiable in both arguments: learned labels (DATM) receive a gradient, so the label side is *not* stopped. For a
  fixed teacher pass `jax.lax.stop_gradient(teacher_logits)`.

  Args:
    logits: `[..., classes]` student logits.
    label_logits: `[..., classes]` logits of the target distribution, not probabilities; their logarithm will do, also
      that of 0.
    temperature: `T > 0`, divides both sides before the softmax.
    scale_t2: multiply by `T^2`, so that gradients do not shrink with the temperature.
    axis: the class axis.
    where: `[...]` or a leading part of it; the loss is 0 where it is false.

  Returns:
    `[...]` in nats (times `T^2`), one value per example, float32 (float64 for float64).

  Raises:
    ValueError: if the shapes differ (integer labels are the usual cause) or `temperature <= 0`.

  References:
    Guo et al., "Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching" (arXiv 2310.05773),
    sec. 3.3: the inner loss with soft labels.
  """
  name = "soft_cross_entropy"
  if np.shape(logits) != np.shape(label_logits):
    raise ValueError(
      f"{name}: logits {np.shape(logits)} and label_logits {np.shape(label_logits)} must have one shape; "
      "for integer labels use cross_entropy"
    )
  check_temperature(name, temperature)
  student, target = (jnp.moveaxis(widen(x), axis, -1) for x in (logits, label_logits))
  check_classes(name, student)
  mask = leading_mask(name, where, student.shape[:-1])
  target, log_student = probs(keep(target, mask), temperature), log_probs(keep(student, mask), temperature)
  return keep(scaled(-jnp.sum(target * log_student, axis=-1), temperature, scale_t2), mask)


def cross_entropy(logits: jax.Array, labels: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
  """Cross entropy with integer labels: `-log_softmax(logits)[label]`.

  Args:
    logits: `[..., classes]`.
    labels: `[...]` integers in `[0, classes)`. Values outside give the loss 0 for that example, which no valid label
      does; check them on the host.
    where: `[...]` or a leading part of it; the loss is 0 where it is false.

  Returns:
    `[...]` in nats, one value per example, float32 (float64 for float64).

  Raises:
    ValueError: if `labels` is not an integer array of the leading shape of `logits`.
  """
  name = "cross_entropy"
  check_classes(name, logits)
  labels = check_labels(name, labels, np.shape(logits)[:-1])
  mask = leading_mask(name, where, labels.shape)
  own = jax.nn.one_hot(labels, np.shape(logits)[-1], dtype=bool)
  # a choice, not a product: 0 times a large number is lost, and 0 times minus infinity is NaN
  return keep(-jnp.sum(jnp.where(own, log_probs(keep(widen(logits), mask)), 0), axis=-1), mask)


def kl_divergence(
  student_logits: jax.Array,
  teacher_logits: jax.Array,
  *,
  temperature: float = 1.0,
  scale_t2: bool = True,
  where: jax.Array | None = None,
) -> jax.Array:
  """The distillation term of KD: `T^2 KL(t || s) = T^2 sum_c t_c (log t_c - log s_c)`, with `s, t = softmax(z / T)`.

  **Not optax's** `kl_divergence(log_predictions, targets)`: this one takes *logits* of both sides, where optax takes
  log-probabilities and probabilities; it multiplies by `T^2`; and the teacher's side has no gradient. The order of the
  arguments, student first, is the same, so the other function's arguments raise no error here and mean something else.

  Mode covering: the student pays for classes that the teacher finds likely and it does not. Its gradient is
  `T (s - t)`, which for large `T` becomes the difference of the centred logits divided by the number of classes.

  Args:
    student_logits: `[..., classes]`.
    teacher_logits: `[..., classes]`. No gradient.
    temperature: `T > 0`.
    scale_t2: multiply by `T^2`, so that gradients do not shrink with the temperature. Some codes leave it out.
    where: `[...]` or a leading part of it; the loss is 0 where it is false.

  Returns:
    `[...]` in nats (times `T^2`): summed over classes, one value per example. Take the mean over examples only.

  Raises:
    ValueError: if the shapes differ or `temperature <= 0`.

  Cost: two softmaxes.

  References:
    Hinton et al., "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531), sec. 2.
  """
  student, teacher, mask = log_pair("kl_divergence", student_logits, teacher_logits, temperature, where)
  return keep(scaled(jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1), temperature, scale_t2), mask)


def reverse_kl(
  student_logits: jax.Array,
  teacher_logits: jax.Array,
  *,
  temperature: float = 1.0,
  scale_t2: bool = True,
  where: jax.Array | None = None,
) -> jax.Array:
  """The other direction, `T^2 KL(s || t) = T^2 sum_c s_c (log s_c - log t_c)`, with `s, t = softmax(z / T)`.

  Mode seeking: the student pays for classes that it finds likely and the teacher does not.

  Args, Returns, Raises, Cost: as for `kl_divergence`.

  References:
    A baseline of Cui et al., "Sinkhorn Distance Minimization for Knowledge Distillation" (arXiv 2402.17110), whose
    code weights it by 0.1.
  """
  student, teacher, mask = log_pair("reverse_kl", student_logits, teacher_logits, temperature, where)
  return keep(scaled(jnp.sum(jnp.exp(student) * (student - teacher), axis=-1), temperature, scale_t2), mask)


def jeffreys_divergence(
  student_logits: jax.Array,
  teacher_logits: jax.Array,
  *,
  temperature: float = 1.0,
  scale_t2: bool = True,
  where: jax.Array | None = None,
) -> jax.Array:
  """The mean of both directions, `T^2 (KL(t || s) + KL(s || t)) / 2`. Symmetric and unbounded.

  Args, Returns, Raises, Cost: as for `kl_divergence`.

  References:
    Cui et al., "Beyond Self-Supervision: A Simple Yet Effective Network Distillation Alternative to Improve Backbones"
    (arXiv 2103.05959): what its released code minimises (there with 1e-12 inside the logarithms) where the
    documentation says Jensen-Shannon. Jeffreys' own has no factor 1/2.
  """
  student, teacher, mask = log_pair("jeffreys_divergence", student_logits, teacher_logits, temperature, where)
  both = jnp.sum((jnp.exp(teacher) - jnp.exp(student)) * (teacher - student), axis=-1) / 2
  return keep(scaled(both, temperature, scale_t2), mask)


def js_divergence(
  student_logits: jax.Array,
  teacher_logits: jax.Array,
  *,
  temperature: float = 1.0,
  scale_t2: bool = True,
  where: jax.Array | None = None,
) -> jax.Array:
  """Jensen-Shannon: `T^2 (KL(s || m) + KL(t || m)) / 2` with `m = (s + t) / 2` and `s, t = softmax(z / T)`.

  Symmetric, at most `T^2 log 2`; so its gradient vanishes where student and teacher hardly overlap.

  Args, Returns, Raises, Cost: as for `kl_divergence`.

  References:
    Cui et al., "Beyond Self-Supervision: A Simple Yet Effective Network Distillation Alternative to Improve Backbones"
    (arXiv 2103.05959), the loss it describes.
  """
  student, teacher, mask = log_pair("js_divergence", student_logits, teacher_logits, temperature, where)
  middle = jnp.logaddexp(student, teacher) - math.log(2.0)
  both = jnp.sum(jnp.exp(student) * (student - middle) + jnp.exp(teacher) * (teacher - middle), axis=-1) / 2
  return keep(scaled(both, temperature, scale_t2), mask)


def kd_loss(
  student_logits: jax.Array,
  teacher_logits: jax.Array,
  labels: jax.Array,
  *,
  temperature: float = 4.0,
  ce_weight: float = 0.1,
  kd_weight: float = 0.9,
  scale_t2: bool = True,
  where: jax.Array | None = None,
) -> jax.Array:
  """KD: `ce_weight * CE(student, label) + kd_weight * T^2 KL(t || s)`, with `s, t = softmax(z / T)`.

  Args:
    student_logits: `[..., classes]`.
    teacher_logits: `[..., classes]`. No gradient.
    labels: `[...]` integers in `[0, classes)`. Others, such as -1, mark unlabelled examples, without the first term.
    temperature: `T > 0`, for the second term only. A saturated teacher says nothing at 1: try several.
    ce_weight: of the labels.
    kd_weight: of the teacher.
    scale_t2: multiply the second term by `T^2`.
    where: `[...]` or a leading part of it; the loss is 0 where it is false.

  Returns:
    `[...]` in nats, one value per example.

  Raises:
    ValueError: if shapes do not match, labels are not integers, or `temperature <= 0`.

  Cost: three softmaxes.

  References:
    Hinton et al., "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531), sec. 2; the default weights and
    temperature are those of the CIFAR benchmarks.
  """
  labels = check_labels("kd_loss", labels, np.shape(student_logits)[:-1])
  distilled = kl_divergence(student_logits, teacher_logits, temperature=temperature, scale_t2=scale_t2, where=where)
  return ce_weight * cross_entropy(student_logits, labels, where=where) + kd_weight * distilled


def ensemble_soft_targets(
  teacher_logits: Sequence[jax.Array], *, weights: Sequence[float] | None = None, temperature: float = 1.0
) -> tuple[jax.Array, jax.Array]:
  """Average probabilities and average logits of several teachers: `sum_m w_m softmax(z_m / T)` and `sum_m w_m z_m`.

  The two say different things: probabilities are the target of MEAL V2's similarity loss, logits the input of its
  discriminator. As a target: `soft_cross_entropy(student_logits, jnp.log(probabilities))`.

  Args:
    teacher_logits: `M >= 1` arrays `[..., classes]`, or one `[M, ..., classes]`, with one order of classes. No
      gradient.
    weights: `M` non-negative numbers, divided by their sum; equal ones by default. A teacher of weight 0 may hold
      anything.
    temperature: `T > 0`, for the probabilities.

  Returns:
    `(probabilities [..., classes], logits [..., classes])`. A class that one teacher with a weight masks out has minus
    infinity among the logits, and its share of the others' mass among the probabilities.

  Raises:
    ValueError: if there are no teachers, their shapes differ, there are not `M` weights, a weight is negative or all
      are 0, or `temperature <= 0`.

  Cost: one softmax per teacher.

  References:
    Shen and Savvides, "MEAL V2" (arXiv 2009.08453), sec. 3 (number unverified).
  """
  name = "ensemble_soft_targets"
  check_temperature(name, temperature)
  count = len(teacher_logits)
  if count < 1:
    raise ValueError(f"{name}: needs at least one teacher")
  check_same_shape(name, **{f"teacher_logits[{m}]": z for m, z in enumerate(teacher_logits)})
  check_classes(name, teacher_logits[0])
  logits = [jax.lax.stop_gradient(widen(z)) for z in teacher_logits]
  shares = _shares(name, weights, count)
  used = [keep(z, jnp.broadcast_to(share > 0, z.shape)) for share, z in zip(shares, logits, strict=True)]
  probabilities = sum(share * probs(z, temperature) for share, z in zip(shares, used, strict=True))
  lowest = sum(share * finite_logits(z) for share, z in zip(shares, used, strict=True))
  masked = jnp.any(jnp.stack([jnp.isneginf(z) for z in used]), axis=0)
  return probabilities, jnp.where(masked, -jnp.inf, lowest)


def _shares(name, weights, count):
  """The weights divided by their sum, in float64 where they are known."""
  weights = [1.0] * count if weights is None else weights
  wrong = ValueError(f"{name}: weights must be {count} non-negative numbers that are not all 0, got {weights}")
  if len(weights) != count:
    raise wrong
  if any(not known(w) for w in [weights, *weights]):
    weights = [jnp.asarray(w, jnp.float32) for w in weights]
    return [w / sum(weights) for w in weights]
  weights = [float(w) for w in weights]
  if not min(weights) >= 0 or not sum(weights) > 0:
    raise wrong
  return [w / sum(weights) for w in weights]
