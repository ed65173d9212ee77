"""Losses that compare class scores of a student with a target distribution."""

import jax
import jax.numpy as jnp


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
  if temperature <= 0:
    raise ValueError(f"soft_cross_entropy: temperature must be > 0, got {temperature}")
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
  if not jnp.issubdtype(labels.dtype, jnp.integer) or labels.shape != logits.shape[:-1]:
    raise ValueError(
      f"cross_entropy: labels must be integers of shape {logits.shape[:-1]}, got {labels.dtype} {labels.shape}"
    )
  return -jnp.sum(jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype) * jax.nn.log_softmax(logits), axis=-1)
