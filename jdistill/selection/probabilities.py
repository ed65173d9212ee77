"""How unsure a student is of each example, from its class probabilities: what queries are ranked by."""

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import UserError
from jdistill.ops.checks import known

FLOOR = 1e-6  # least gain; a gain of zero has no inverse
_TOLERANCE = 1e-3  # of sums, which may come from half precision


def margin_gain(probabilities: jax.Array) -> jax.Array:
  """`1 - (p_(1) - p_(2))`, with the greatest and the second greatest probability; at least `FLOOR`.

  Args:
    probabilities: `[n, C]`, `C >= 2`, rows with sum 1.

  Returns:
    `[n]` in `[1e-6, 1]`.

  Raises:
    UserError: rows that are no probabilities (logits, say), NaN, or fewer than two classes.
  """
  check_probabilities("margin_gain", probabilities)
  top, _ = jax.lax.top_k(jnp.asarray(probabilities), 2)
  return jnp.clip(1 - (top[:, 0] - top[:, 1]), FLOOR, 1)


def entropy(probabilities: jax.Array) -> jax.Array:
  """`-sum_c p_c log p_c` in nats, `[n]`; arguments and errors are those of `margin_gain`."""
  check_probabilities("entropy", probabilities)
  return jnp.sum(jax.scipy.special.entr(jnp.asarray(probabilities)), axis=1)


def least_confidence(probabilities: jax.Array) -> jax.Array:
  """`1 - max_c p_c`, `[n]`; arguments and errors are those of `margin_gain`."""
  check_probabilities("least_confidence", probabilities)
  return 1 - jnp.max(jnp.asarray(probabilities), axis=1)


def dual_head_probs(z_ce: jax.Array, z_kd: jax.Array, *, alpha: float = 0.5, beta: float = 1.0) -> jax.Array:
  """Prediction of a student with two heads, `alpha softmax(z_ce) + (1 - alpha) softmax(z_kd / beta)`.

  Args:
    z_ce: `[..., C]` logits of the head that learns from labels.
    z_kd: `[..., C]` logits of the head that learns from the teacher.
    alpha: weight of the first head, in `[0, 1]`.
    beta: temperature of the second head, above 0.

  Returns:
    `[..., C]` probabilities.

  Raises:
    UserError: heads of different shapes, or numbers out of range.

  References:
    Kang et al., "PCoreSet: Effective Active Learning through Knowledge Distillation from Vision-Language
    Models" (arXiv 2506.00910); `alpha`
    0.5 and `beta` 1 in its released code.
  """
  if jnp.shape(z_ce) != jnp.shape(z_kd):
    raise UserError(f"dual_head_probs: heads of shapes {jnp.shape(z_ce)} and {jnp.shape(z_kd)}; give the same classes")
  if not 0 <= alpha <= 1 or not beta > 0:
    raise UserError(f"dual_head_probs: alpha={alpha}, beta={beta}; give alpha in [0, 1] and beta above 0")
  return alpha * jax.nn.softmax(z_ce) + (1 - alpha) * jax.nn.softmax(z_kd / beta)


def check_probabilities(name: str, probabilities: jax.Array) -> None:
  """Refuses what is no matrix of probabilities; of traced arrays the shape alone.

  Raises:
    UserError: what was found, and what to give instead.
  """
  if np.ndim(probabilities) != 2 or np.shape(probabilities)[1] < 2:
    raise UserError(f"{name}: probabilities of shape {np.shape(probabilities)}; give [examples, classes], two or more")
  if not known(probabilities) or not np.size(probabilities):
    return
  values = np.asarray(probabilities)
  if not np.isfinite(values).all():
    raise UserError(f"{name}: {int((~np.isfinite(values)).sum())} probabilities are not finite; look at the student")
  sums = values.sum(1, dtype=np.float64)
  if values.min() < 0 or np.abs(sums - 1).max() > _TOLERANCE:
    worst = sums[np.abs(sums - 1).argmax()]
    raise UserError(
      f"{name}: rows are no probabilities (least value {values.min():.3g}, a sum of {worst:.3g}); take softmax(logits)"
    )
