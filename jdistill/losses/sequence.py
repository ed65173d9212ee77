"""What sequences add to losses of tokens: the three reductions of the field, and log-probabilities of sequences.

Logits are shifted already: those at a position predict the token given for that position.
"""

import jax
import jax.numpy as jnp

from jdistill.losses._checks import check_classes, masked_mean
from jdistill.losses.logit import cross_entropy
from jdistill.ops.checks import check_labels, check_rank, keep, leading_mask
from jdistill.ops.precision import widen

REDUCTIONS = ("token_mean", "sequence_mean", "sequence_sum")


def reduce_tokens(values: jax.Array, where: jax.Array | None = None, *, reduction: str = "token_mean") -> jax.Array:
  """One number for a batch of token losses. With `n_b` valid tokens in sequence `b`, and means over the `n_b > 0`:

      token_mean     sum_bt l_bt / sum_b n_b            every token weighs the same (DistiLLM, TAID, DUMP's code)
      sequence_mean  mean_b (sum_t l_bt / n_b)          every sequence weighs the same (MiniPLM's scores, GRPO's paper)
      sequence_sum   mean_b (sum_t l_bt)                divergences of whole sequences, which grow with the length

  All three divide once: two copies of a batch have the loss of one. They differ as soon as lengths do. Under data
  parallelism `token_mean` of the whole batch is not the mean of the devices' `token_mean`: sum values and counts.

  Args:
    values: `[B, T]`.
    where: `[B, T]` or `[B]`, false for tokens that do not count; their values may be anything, but their gradient is
      only clean if the loss had the mask as well (see `masked_mean`).
    reduction: one of the names above.

  Returns:
    A scalar in the unit of `values`, float32 (float64 for float64); 0 with a gradient of 0 if no token is valid.

  Raises:
    ValueError: an unknown reduction, values that are not `[B, T]`, or a mask of another shape.
  """
  name = "reduce_tokens"
  check_rank(name, "values", values, 2)
  if reduction not in REDUCTIONS:
    raise ValueError(f"{name}: reduction={reduction!r} is not one of {', '.join(REDUCTIONS)}")
  values = widen(values)
  mask = keep(jnp.ones(values.shape, bool), leading_mask(name, where, values.shape))
  if reduction == "token_mean":
    return masked_mean(values, mask)
  count = jnp.sum(mask, axis=1)
  rows = jnp.sum(keep(values, mask), axis=1)
  if reduction == "sequence_mean":
    rows = rows / jnp.maximum(count, 1).astype(rows.dtype)
  return masked_mean(rows, count > 0)


def sequence_log_prob(
  logits: jax.Array, tokens: jax.Array, *, where: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
  """Log-probability of each sequence, `sum_t log softmax(z_t)[token_t]` over its valid tokens, and how many there are.

  Differentiable in `logits`. The mean per token, which scores of sequences of different lengths need, is the quotient.

  Args:
    logits: `[B, T, V]`.
    tokens: `[B, T]` integers in `[0, V)`. Values outside add 0: mask them.
    where: `[B, T]` or `[B]`, false for prompts and padding.

  Returns:
    `(log-probabilities [B] in nats, float32 (float64 for float64), lengths [B] int32)`.

  Raises:
    ValueError: logits that are not `[B, T, V]`, or tokens or a mask that do not fit them.

  Cost: one softmax per token.

  References:
    The scores of MiniPLM (arXiv 2410.17215) are differences of such means.
  """
  name = "sequence_log_prob"
  check_rank(name, "logits", logits, 3)
  check_classes(name, logits)
  tokens = check_labels(name, tokens, jnp.shape(logits)[:2])
  mask = leading_mask(name, where, tokens.shape)
  valid = keep(jnp.ones(tokens.shape, bool), mask)
  log_prob = -cross_entropy(logits, tokens, where=mask)
  return jnp.sum(log_prob, axis=1), jnp.sum(valid, axis=1, dtype=jnp.int32)
