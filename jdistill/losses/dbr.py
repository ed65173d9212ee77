"""Two distances in the place of a soft label: how far a mixed image is from the classes of its two sources."""

from typing import Literal

import jax
import jax.numpy as jnp

from jdistill.ops.precision import widen


def dbr_record(logits: jax.Array, y: jax.Array, pasted: jax.Array, *, temperature: float = 1.0) -> jax.Array:
  """`(-log p[y], -log p[pasted])` with `p = softmax(z / T)`.

  Args:
    logits: `[B, C]` of a network on mixed images.
    y: `[B]` integer labels of the images.
    pasted: `[B]` those of what is mixed into them.
    temperature: T > 0.

  Returns:
    `[B, 2]` in nats.

  Raises:
    ValueError: shapes that do not fit, or a temperature that is not positive.

  References:
    Tran et al., "Enhancing Dataset Distillation via Non-Critical Region Refinement" (arXiv 2503.18267); the temperature
    is not confirmed.
  """
  if logits.ndim != 2 or y.shape != logits.shape[:1] or pasted.shape != y.shape:
    raise ValueError(f"dbr: logits {logits.shape}, labels {y.shape} and {pasted.shape}; give [B, C], [B] and [B]")
  if not temperature > 0:
    raise ValueError(f"dbr: temperature={temperature}; give a number above 0")
  log_probs = jax.nn.log_softmax(widen(logits) / temperature, axis=-1)
  classes = jnp.stack([y, pasted], axis=-1)
  return -jnp.take_along_axis(log_probs, classes, axis=-1)


def dbr_loss(
  student_logits: jax.Array,
  record: jax.Array,
  y: jax.Array,
  pasted: jax.Array,
  *,
  temperature: float = 1.0,
  norm: Literal["l1", "l2"] = "l1",
) -> jax.Array:
  """Distance-based representation: `|d_y^S - d_y^T| + |d_pasted^S - d_pasted^T|`, or the squares of both.

  Args:
    student_logits: `[B, C]`.
    record: `[B, 2]` of the teacher (`dbr_record`). No gradient.
    y, pasted: `[B]` integer labels.
    temperature: of the student's softmax; that of the record.
    norm: `"l1"`, or `"l2"` for squares (which of them the paper takes is not confirmed).

  Returns:
    `[B]`.

  Raises:
    ValueError: shapes that do not fit, an unknown norm.

  References:
    Tran et al. (arXiv 2503.18267).
  """
  own = dbr_record(student_logits, y, pasted, temperature=temperature)
  if record.shape != own.shape or norm not in ("l1", "l2"):
    raise ValueError(f"dbr_loss: record {record.shape}, norm {norm!r}; give {own.shape}, and 'l1' or 'l2'")
  gap = own - jax.lax.stop_gradient(widen(record))
  return jnp.sum(jnp.abs(gap) if norm == "l1" else jnp.square(gap), axis=-1)
