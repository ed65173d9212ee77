"""What policy gradients over sampled tokens weigh them by: returns, whitening, and weights of another sampler."""

import jax
import jax.numpy as jnp
from jax import lax

from jdistill.ops.checks import check_positive, check_rank, check_same_shape, check_share, keep, leading_mask
from jdistill.ops.logits import finite_logits
from jdistill.ops.precision import widen


def discounted_returns(
  rewards: jax.Array,
  *,
  discount: float | jax.Array = 1.0,
  own: bool = True,
  length_norm: bool = False,
  where: jax.Array | None = None,
) -> jax.Array:
  """`R_t = sum_{t' >= t} discount^(t' - t) r_t'` over the valid tokens of each sequence.

  Args:
    rewards: `[B, T]` per token. No gradient.
    discount: in [0, 1].
    own: false leaves the token's own reward out: `sum_{t' > t} discount^(t' - t - 1) r_t'`.
    length_norm: divide by how many rewards there are in the sum, as MiniLLM does, whose sequences would otherwise
      shorten; 0 where there is none.
    where: `[B, T]` or `[B]`, false for tokens that are no part of a sequence; they have return 0 and take no time.

  Returns:
    `[B, T]` without a gradient, float32 (float64 for float64).

  Raises:
    ValueError: rewards that are not `[B, T]`, or a discount out of its range.

  References:
    Gu et al., "MiniLLM: Knowledge Distillation of Large Language Models" (arXiv 2306.08543), eqs. 5 and 7 (numbers
    unverified).
  """
  name = "discounted_returns"
  check_rank(name, "rewards", rewards, 2)
  check_share(name, discount=discount)
  rewards = lax.stop_gradient(widen(rewards))
  valid = keep(jnp.ones(rewards.shape, bool), leading_mask(name, where, rewards.shape))
  rewards = keep(rewards, valid)
  discount = jnp.asarray(discount, rewards.dtype)

  def back(carry: tuple, column: tuple) -> tuple[tuple, tuple]:
    later, count = carry
    reward, there = column
    whole, number = reward + discount * later, count + 1
    out = (whole, number) if own else (later, count)
    return (jnp.where(there, whole, later), jnp.where(there, number, count)), out

  start = jnp.zeros(rewards.shape[0], rewards.dtype)
  _, (sums, counts) = lax.scan(back, (start, start), (rewards.T, valid.T), reverse=True)
  sums, counts = keep(sums.T, valid), counts.T
  return sums / jnp.maximum(counts, 1) if length_norm else sums


def whiten_advantages(
  values: jax.Array, *, where: jax.Array | None = None, padding: bool = False, eps: float | jax.Array = 1e-8
) -> jax.Array:
  """`(v - mean) / sqrt(variance + eps)` over all valid values of a batch; the variance divides by their number.

  Args:
    values: `[...]`. No gradient.
    where: `[...]` or a leading part of it; what it excludes is 0 in the result.
    padding: excluded values enter mean and variance as zeros, as in MiniLLM's released code, where the padding of a
      batch then moves the others.
    eps: added to the variance.

  Returns:
    The shape of `values`, without a gradient, float32 (float64 for float64).

  Raises:
    ValueError: a mask that does not fit, or `eps` that is not positive.
  """
  check_positive("whiten_advantages", eps=eps)
  values = lax.stop_gradient(widen(values))
  valid = keep(jnp.ones(values.shape, bool), leading_mask("whiten_advantages", where, values.shape))
  values = keep(values, valid)
  counted = jnp.ones_like(valid) if padding else valid
  count = jnp.maximum(jnp.sum(counted), 1).astype(values.dtype)
  mean = jnp.sum(values) / count
  apart = values - mean
  variance = jnp.sum(jnp.square(keep(apart, counted))) / count
  return keep(apart / jnp.sqrt(variance + eps), valid)


def mixture_weight(
  log_probs: jax.Array, teacher_log_probs: jax.Array, *, share: float | jax.Array, where: jax.Array | None = None
) -> jax.Array:
  """`q / ((1 - share) q + share p)` of sampled tokens: what makes samples of the mixture count as the student's.

  Args:
    log_probs: `[...]` of the tokens under the student that sampled, `log q`. No gradient.
    teacher_log_probs: `[...]`, `log p`. No gradient.
    share: the teacher's, in [0, 1).
    where: `[...]` or a leading part of it; the weight is 0 where it is false.

  Returns:
    `[...]` in [0, 1 / (1 - share)], without a gradient.

  Raises:
    ValueError: shapes that differ, or a share out of its range.

  References:
    MiniLLM (arXiv 2306.08543): the weight of the token alone stands for the product over the sequence, whose variance
    is too large.
  """
  name = "mixture_weight"
  check_same_shape(name, log_probs=log_probs, teacher_log_probs=teacher_log_probs)
  check_share(name, share=share)
  mask = leading_mask(name, where, log_probs.shape)
  log_q, log_p = (keep(lax.stop_gradient(finite_logits(x)), mask) for x in (log_probs, teacher_log_probs))
  share = jnp.asarray(share, log_q.dtype)
  return keep(jnp.exp(log_q - jnp.logaddexp(jnp.log1p(-share) + log_q, jnp.log(share) + log_p)), mask)


def log_ratio_rewards(
  log_probs: jax.Array,
  teacher_log_probs: jax.Array,
  *,
  scale: float | jax.Array = 0.5,
  bound: float | jax.Array = 100.0,
  where: jax.Array | None = None,
) -> jax.Array:
  """`clip((log p - log q) / scale, -bound, bound)`: what a token is worth to a student that minimises `KL(q || p)`.

  Args:
    log_probs: `[...]` of the tokens under the student that sampled. No gradient.
    teacher_log_probs: `[...]`; minus infinity, as top-k sampling makes it, is worth `-bound`. No gradient.
    scale: above 0.
    bound: above 0.
    where: `[...]` or a leading part of it; the reward is 0 where it is false.

  Returns:
    `[...]` without a gradient.

  Raises:
    ValueError: shapes that differ, or a scale or bound that is not positive.

  References:
    MiniLLM (arXiv 2306.08543); the defaults are those of the release.
  """
  name = "log_ratio_rewards"
  check_positive(name, scale=scale, bound=bound)
  check_same_shape(name, log_probs=log_probs, teacher_log_probs=teacher_log_probs)
  mask = leading_mask(name, where, log_probs.shape)
  log_q, log_p = (keep(lax.stop_gradient(finite_logits(x)), mask) for x in (log_probs, teacher_log_probs))
  return jnp.clip((log_p - log_q) / scale, -bound, bound)
