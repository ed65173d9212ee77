"""What several losses check before they compute, and the mean they share."""

import jax
import jax.numpy as jnp


def check_temperature(name: str, temperature: float) -> None:
  """Raises ValueError unless `temperature` is positive; a traced one cannot be checked and passes."""
  if not isinstance(temperature, jax.core.Tracer) and not float(temperature) > 0:
    raise ValueError(f"{name}: temperature must be > 0, got {temperature}")


def check_same_shape(name: str, **arrays: jax.Array) -> None:
  """Raises ValueError naming all arguments with their shapes unless these are equal."""
  if len({jnp.shape(x) for x in arrays.values()}) > 1:
    listed = ", ".join(f"{argument} {jnp.shape(x)}" for argument, x in arrays.items())
    raise ValueError(f"{name}: shapes must be equal, got {listed}")


def check_rank(name: str, array_name: str, array: jax.Array, rank: int) -> None:
  """Raises ValueError unless `array` has `rank` axes."""
  if jnp.ndim(array) != rank:
    raise ValueError(f"{name}: {array_name} must have {rank} axes, got shape {jnp.shape(array)}")


def check_logits(name: str, student_logits: jax.Array, teacher_logits: jax.Array, least_classes: int = 1) -> None:
  """Raises ValueError unless both are `[..., classes]` of one shape with at least `least_classes` classes."""
  check_same_shape(name, student_logits=student_logits, teacher_logits=teacher_logits)
  if jnp.ndim(student_logits) < 1 or student_logits.shape[-1] < least_classes:
    raise ValueError(f"{name}: needs at least {least_classes} classes, got logits {jnp.shape(student_logits)}")


def check_labels(name: str, labels: jax.Array, shape: tuple[int, ...]) -> None:
  """Raises ValueError unless `labels` are integers of `shape`."""
  if not jnp.issubdtype(labels.dtype, jnp.integer) or labels.shape != shape:
    raise ValueError(f"{name}: labels must be integers of shape {shape}, got {labels.dtype} {labels.shape}")


def masked_mean(values: jax.Array, where: jax.Array | None) -> jax.Array:
  """Mean of all `values`, or of those where the mask holds (0 if it never does).

  What is masked out changes neither the mean nor its gradient with respect to `values`, even if it is not finite.

  Args:
    values: `[B, ...]`.
    where: `None`, or a mask of the leading axes of `values`: `[B]`, `[B, ...]`.

  Returns:
    A scalar of the type of `values`.

  Raises:
    ValueError: if the shape of `where` is not a leading part of that of `values`.
  """
  if where is None:
    return jnp.mean(values)
  where = jnp.asarray(where).astype(bool)
  if where.shape != values.shape[: where.ndim]:
    raise ValueError(f"masked_mean: where {where.shape} must be a leading part of {values.shape}")
  kept = jnp.broadcast_to(where.reshape(where.shape + (1,) * (values.ndim - where.ndim)), values.shape)
  count = jnp.maximum(jnp.sum(kept), 1).astype(values.dtype)
  return jnp.sum(jnp.where(kept, values, 0)) / count
