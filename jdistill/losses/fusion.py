"""KD with a weight of the teacher per example, such as TGeo-KD learns."""

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.losses.logit import cross_entropy, kl_divergence
from jdistill.ops.checks import check_labels, check_rank, keep, known, leading_mask


def fused_kd_loss(
  student_logits: jax.Array,
  teacher_logits: jax.Array,
  labels: jax.Array,
  alpha: jax.Array | float,
  *,
  temperature: float = 1.5,
  scale_t2: bool = True,
  where: jax.Array | None = None,
) -> jax.Array:
  """KD with a weight per example: `alpha_i T^2 KL_i(t || s) + (1 - alpha_i) CE_i`.

  Differentiable in `alpha`, which is how a controller learns through the student (see
  `jdistill.bilevel.one_step_hypergradient`); for the student's own step stop the gradient there.

  Args:
    student_logits: `[B, classes]`.
    teacher_logits: `[B, classes]`. No gradient.
    labels: `[B]` integers in `[0, classes)`.
    alpha: `[B]` or a number, in `[0, 1]`.
    temperature: `T > 0`, for the first term only.
    scale_t2: multiply the first term by `T^2`.
    where: `[B]`; the loss is 0 where it is false, whatever `alpha` is there.

  Returns:
    `[B]` in nats, one value per example.

  Raises:
    ValueError: if shapes do not match, labels are not integers, `temperature <= 0`, or a known `alpha` is not within
      `[0, 1]` (one that is being traced cannot be checked).

  Cost: three softmaxes.

  References:
    Hu et al. (arXiv 2312.15112), the inner objective. The released script computes `alpha` without gradients and feeds
    probabilities to a cross entropy of logits; neither is done here.
  """
  name = "fused_kd_loss"
  check_rank(name, "student_logits", student_logits, 2)
  shape = np.shape(student_logits)[:1]
  labels = check_labels(name, labels, shape)
  mask = leading_mask(name, where, shape)
  distilled = kl_divergence(student_logits, teacher_logits, temperature=temperature, scale_t2=scale_t2, where=mask)
  if np.shape(alpha) not in ((), shape):
    raise ValueError(f"{name}: alpha must be a number or of shape {shape}, got {np.shape(alpha)}")
  if known(alpha) and known(where):
    found = np.asarray(alpha) if where is None else np.where(where, np.asarray(alpha), 0)
    if not np.all((found >= 0) & (found <= 1)):
      raise ValueError(f"{name}: alpha must be within [0, 1], got {found.min()}..{found.max()}")
  weight = keep(jnp.broadcast_to(jnp.asarray(alpha, distilled.dtype), distilled.shape), mask)
  return weight * distilled + (1 - weight) * cross_entropy(student_logits, labels, where=mask)
