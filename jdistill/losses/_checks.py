"""What several losses check before they compute, and the mean they share."""

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.ops.checks import check_number, check_positive, check_same_shape, keep, leading_mask
from jdistill.ops.logits import log_probs
from jdistill.ops.precision import widen


def check_temperature(name: str, temperature: float) -> None:
  """Raises ValueError unless `temperature` is a positive number; a traced one cannot be checked and passes."""
  check_positive(name, temperature=temperature)


def check_inner_share(name: str, hint: str, **numbers) -> None:
  """Raises ValueError unless all `numbers` are scalars strictly between 0 and 1; `hint` is what the ends would be."""
  for argument, value in numbers.items():
    check_number(name, argument, value, lambda x: 0 < x < 1, f"in (0, 1) ({hint})")


def check_classes(name: str, logits: jax.Array, least_classes: int = 1) -> None:
  """Raises ValueError unless `logits` are `[..., classes]` with at least `least_classes` classes."""
  if np.ndim(logits) < 1 or np.shape(logits)[-1] < least_classes:
    raise ValueError(f"{name}: needs at least {least_classes} classes, got logits {np.shape(logits)}")


def check_logits(name: str, student_logits: jax.Array, teacher_logits: jax.Array, least_classes: int = 1) -> None:
  """Raises ValueError unless both are `[..., classes]` of one shape with at least `least_classes` classes."""
  check_same_shape(name, student_logits=student_logits, teacher_logits=teacher_logits)
  check_classes(name, student_logits, least_classes)


def student_teacher(
  name: str, student_logits: jax.Array, teacher_logits: jax.Array, where: jax.Array | None, least_classes: int = 1
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
  """Both sides' logits in float32, the teacher's stopped and both zero where excluded, and the mask of `[...]`.

  Raises:
    ValueError: if the shapes of the logits differ, or that of `where` is not a leading part of `[...]`.
  """
  check_logits(name, student_logits, teacher_logits, least_classes)
  mask = leading_mask(name, where, np.shape(student_logits)[:-1])
  return keep(widen(student_logits), mask), keep(jax.lax.stop_gradient(widen(teacher_logits)), mask), mask


def log_pair(
  name: str,
  student_logits: jax.Array,
  teacher_logits: jax.Array,
  temperature: float | jax.Array,
  where: jax.Array | None,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
  """Both sides' log-probabilities at `temperature`, the teacher's stopped, and the mask of `[...]`.

  Raises:
    ValueError: as `student_teacher`, or `temperature <= 0`.
  """
  check_temperature(name, temperature)
  student, teacher, mask = student_teacher(name, student_logits, teacher_logits, where)
  return log_probs(student, temperature), log_probs(teacher, temperature), mask


def scaled(loss: jax.Array, temperature: float | jax.Array, scale_t2: bool) -> jax.Array:
  """`loss`, times `temperature ** 2` if asked for."""
  return loss * temperature**2 if scale_t2 else loss


def masked_mean(values: jax.Array, where: jax.Array | None = None) -> jax.Array:
  """Mean of all `values`, or of those where the mask holds; 0 if there are none.

  What is masked out changes neither the mean nor its gradient with respect to `values`, even if it is not finite. What
  `values` were computed from is another matter: NaN times a gradient of 0 is NaN, so pass `where` to the loss as well.

  Args:
    values: `[B, ...]`.
    where: `None`, or a mask of the leading axes of `values`: `[B]`, `[B, ...]`.

  Returns:
    A scalar of the type of `values`.

  Raises:
    ValueError: if the shape of `where` is not a leading part of that of `values`.
  """
  values = jnp.asarray(values)
  if where is None:
    return jnp.mean(values) if values.size else jnp.zeros((), values.dtype)
  where = jnp.asarray(where).astype(bool)
  if where.shape != values.shape[: where.ndim]:
    raise ValueError(f"masked_mean: where {where.shape} must be a leading part of {values.shape}")
  kept = jnp.broadcast_to(where.reshape(where.shape + (1,) * (values.ndim - where.ndim)), values.shape)
  count = jnp.maximum(jnp.sum(kept), 1).astype(values.dtype)
  return jnp.sum(jnp.where(kept, values, 0)) / count
