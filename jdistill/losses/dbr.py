"""Two distances in the place of a soft label: how far a mixed image is from the classes of its two sources."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.losses._checks import check_temperature
from jdistill.losses.logit import cross_entropy
from jdistill.ops.checks import keep, leading_mask
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
  check_temperature("dbr_record", temperature)
  scaled = widen(logits) / temperature
  return jnp.stack([cross_entropy(scaled, y), cross_entropy(scaled, pasted)], axis=-1)


def dbr_loss(
  student_logits: jax.Array,
  record: jax.Array,
  y: jax.Array,
  pasted: jax.Array,
  *,
  temperature: float = 1.0,
  norm: Literal["absolute", "squared"] = "absolute",
  where: jax.Array | None = None,
) -> jax.Array:
  """Distance-based representation: `|d_y^S - d_y^T| + |d_pasted^S - d_pasted^T|`, or the squares of both.

  Args:
    student_logits: `[B, C]`.
    record: `[B, 2]` of the teacher (`dbr_record`). No gradient.
    y, pasted: `[B]` integer labels.
    temperature: of the student's softmax; that of the record.
    norm: `"absolute"`, or `"squared"` for squares (which of them the paper takes is not confirmed).
    where: `[B]`; the loss is 0 where it is false.

  Returns:
    `[B]`.

  Raises:
    ValueError: shapes that do not fit, an unknown norm.

  References:
    Tran et al. (arXiv 2503.18267).
  """
  mask = leading_mask("dbr_loss", where, np.shape(y))
  own = dbr_record(keep(widen(student_logits), mask), y, pasted, temperature=temperature)
  if np.shape(record) != own.shape or norm not in ("absolute", "squared"):
    raise ValueError(
      f"dbr_loss: record {np.shape(record)}, norm {norm!r}; give {own.shape}, and 'absolute' or 'squared'"
    )
  gap = keep(own - jax.lax.stop_gradient(widen(record)), mask)
  return jnp.sum(jnp.abs(gap) if norm == "absolute" else jnp.square(gap), axis=-1)
