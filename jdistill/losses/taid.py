"""TAID: a target between the student and its teacher, which moves towards the teacher in the course of training."""

import jax

from jdistill.losses._checks import log_pair, student_teacher
from jdistill.losses.logit import soft_cross_entropy
from jdistill.ops.checks import check_share


def interpolated_target(
  student_logits: jax.Array, teacher_logits: jax.Array, interpolation: float | jax.Array
) -> jax.Array:
  """TAID's target as logits: `(1 - t) stop_gradient(z_s) + t z_t`, `t` the interpolation. Neither side has a gradient.

  Its softmax is the normalised geometric mean of both distributions: the student's own at `t = 0`, the teacher's at
  `t = 1`. Without the stop the student would pull the target towards itself.

  Args:
    student_logits: `[..., classes]`.
    teacher_logits: `[..., classes]`.
    interpolation: the paper's `t`, in [0, 1].

  Returns:
    Logits `[..., classes]`, float32 (float64 for float64). A class that one side with a share masks out is masked out.

  Raises:
    ValueError: if the shapes differ or `interpolation` is not in [0, 1].

  References:
    Shing et al., "TAID: Temporally Adaptive Interpolated Distillation for Efficient Knowledge Transfer in Language
    Models" (arXiv 2501.16937), eq. 3 (number unverified).
  """
  check_share("interpolated_target", interpolation=interpolation)
  student, teacher, _ = log_pair("interpolated_target", student_logits, teacher_logits, 1.0, None)
  return jax.lax.stop_gradient((1 - interpolation) * student + interpolation * teacher)


def taid_loss(
  student_logits: jax.Array,
  teacher_logits: jax.Array,
  *,
  interpolation: float | jax.Array,
  temperature: float | jax.Array = 1.0,
  scale_t2: bool = True,
  where: jax.Array | None = None,
) -> jax.Array:
  """TAID: cross entropy of the student with `softmax(interpolated_target / T)`; its gradient is `T (s - target)`.

  The entropy of the target is *not* subtracted, as in the released code, so the value moves with `t` as well. At
  `t = 0` there is no gradient, at `t = 1` that of `kl_divergence`.

  Args:
    student_logits: `[..., classes]`.
    teacher_logits: `[..., classes]`. No gradient.
    interpolation: `t` in [0, 1], which grows in the course of training.
    temperature: `T > 0`, divides both sides; the paper has 1.
    scale_t2: multiply by `T^2`, so that gradients do not shrink with the temperature.
    where: `[...]` or a leading part of it; the loss is 0 where it is false.

  Returns:
    `[...]` in nats (times `T^2`), one value per token.

  Raises:
    ValueError: if the shapes differ, `t` is not in [0, 1] or `temperature <= 0`.

  Cost: four softmaxes.

  References:
    Shing et al., "TAID" (arXiv 2501.16937), sec. 3.
  """
  student, teacher, mask = student_teacher("taid_loss", student_logits, teacher_logits, where)
  target = interpolated_target(student, teacher, interpolation)
  return soft_cross_entropy(student, target, temperature=temperature, scale_t2=scale_t2, where=mask)
