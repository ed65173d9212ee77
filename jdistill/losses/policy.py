"""Policy gradients on sampled tokens: advantages of groups, the clipped surrogate, and a divergence from samples."""

import jax
import jax.numpy as jnp

from jdistill.ops.checks import check_at_least, check_positive, check_rank, check_same_shape, keep, leading_mask
from jdistill.ops.logits import finite_logits
from jdistill.ops.precision import widen

_FARTHEST = 20.0  # of a log-ratio; exp(20) is 5e8


def group_relative_advantage(
  rewards: jax.Array, *, eps: float | jax.Array = 1e-6, where: jax.Array | None = None
) -> jax.Array:
  """GRPO: how much better a response is than the others to its prompt, `(r_i - mean(r)) / (std(r) + eps)`.

  The standard deviation has `G - 1` in its denominator, as in the released code. A group of one has mean 0 and standard
  deviation 1. A group whose rewards are all the same has advantage 0: no signal, which is worth counting on the host.

  Args:
    rewards: `[B, G]`, `G` responses to each of `B` prompts. No gradient.
    eps: added to the standard deviation.
    where: `[B, G]` or `[B]`, false for responses that do not belong to the group; they have advantage 0.

  Returns:
    `[B, G]` without a gradient, float32 (float64 for float64).

  Raises:
    ValueError: rewards that are not `[B, G]`, or `eps` that is not positive.

  References:
    Shao et al., "DeepSeekMath" (arXiv 2402.03300); Wang et al., "DUMP: Automated Distribution-Level Curriculum Learning
    for RL-based LLM Post-training" (arXiv 2504.09710), whose code is followed.
  """
  name = "group_relative_advantage"
  check_rank(name, "rewards", rewards, 2)
  check_positive(name, eps=eps)
  rewards = jax.lax.stop_gradient(widen(rewards))
  mask = leading_mask(name, where, rewards.shape)
  valid = keep(jnp.ones(rewards.shape, bool), mask)
  rewards = keep(rewards, valid)
  count = jnp.sum(valid, axis=1, keepdims=True).astype(rewards.dtype)
  mean = jnp.sum(rewards, axis=1, keepdims=True) / jnp.maximum(count, 1)
  apart = keep(rewards - mean, valid)
  deviation = jnp.sqrt(jnp.sum(jnp.square(apart), axis=1, keepdims=True) / jnp.maximum(count - 1, 1))
  return jnp.where(count > 1, apart / (deviation + eps), rewards / (1 + eps))


def clipped_policy_loss(
  log_probs: jax.Array,
  old_log_probs: jax.Array,
  advantages: jax.Array,
  *,
  clip: float | jax.Array = 0.2,
  weights: jax.Array | None = None,
  clip_weighted: bool = True,
  where: jax.Array | None = None,
) -> jax.Array:
  """PPO's and GRPO's surrogate per token: `-min(r A, clip(r, 1 - clip, 1 + clip) A)`, `r = exp(log pi - log pi_old)`.

  On the policy, `r = 1`, its gradient is `-A` times that of `log pi`. The logarithm of `r` is kept within 20.

  Args:
    log_probs: `[...]` of the sampled tokens under the policy that learns.
    old_log_probs: `[...]` under the policy that sampled them. No gradient.
    advantages: `[...]`, or a leading part of it such as one per sequence. No gradient.
    clip: at least 0.
    weights: `[...]` importance weights of tokens that another policy sampled (see `mixture_weight`); `None` for 1.
    clip_weighted: `r` is multiplied by the weight before it is clipped, as in MiniLLM's code; false multiplies the
      surrogate instead.
    where: `[...]` or a leading part of it; the loss is 0 where it is false.

  Returns:
    `[...]` one value per token; `reduce_tokens` takes the mean (DUMP's code over all tokens of the batch, GRPO's paper
    over those of a sequence first).

  Raises:
    ValueError: if the shapes do not fit or `clip` is negative.

  References:
    Schulman et al., "Proximal Policy Optimization Algorithms" (arXiv 1707.06347), eq. 7; Shao et al., "DeepSeekMath"
    (arXiv 2402.03300), eq. 3 (numbers unverified); the policy step of DUMP (arXiv 2504.09710).
  """
  name = "clipped_policy_loss"
  check_at_least(name, 0, clip=clip)
  log_ratio, mask = _log_ratio(name, log_probs, old_log_probs, where, "old_log_probs")
  advantages = jax.lax.stop_gradient(widen(advantages))
  if advantages.shape != log_ratio.shape[: advantages.ndim]:
    raise ValueError(f"{name}: advantages {advantages.shape} must be a leading part of {log_ratio.shape}")
  advantages = advantages.reshape(advantages.shape + (1,) * (log_ratio.ndim - advantages.ndim))
  advantages = keep(jnp.broadcast_to(advantages, log_ratio.shape), mask)
  ratio, factor = jnp.exp(log_ratio), 1.0
  if weights is not None:
    check_same_shape(name, log_probs=log_probs, weights=weights)
    weights = keep(jax.lax.stop_gradient(widen(weights)), mask)
    ratio, factor = (ratio * weights, 1.0) if clip_weighted else (ratio, weights)
  return keep(-factor * jnp.minimum(ratio * advantages, jnp.clip(ratio, 1 - clip, 1 + clip) * advantages), mask)


def k3_kl(
  log_probs: jax.Array,
  reference_log_probs: jax.Array,
  *,
  bound: float | jax.Array = 10.0,
  where: jax.Array | None = None,
) -> jax.Array:
  """An estimate of `KL(pi || reference)` from tokens that `pi` sampled: `exp(d) - d - 1`, `d = log ref - log pi`.

  Its mean over samples is the divergence, it is never negative, and it varies less than `-d`. Its gradient, taken on
  samples that do not move, is not that of the divergence; it is what GRPO minimises all the same.

  Args:
    log_probs: `[...]` of the sampled tokens under the policy that learns.
    reference_log_probs: `[...]` under the reference. No gradient.
    bound: the largest value; above it there is no gradient.
    where: `[...]` or a leading part of it; the estimate is 0 where it is false.

  Returns:
    `[...]` in nats, one value per token.

  Raises:
    ValueError: if the shapes differ or `bound` is not positive.

  References:
    The estimator k3 of Schulman, "Approximating KL Divergence" (2020); DUMP (arXiv 2504.09710) weights it by 0.001.
  """
  name = "k3_kl"
  check_positive(name, bound=bound)
  log_ratio, mask = _log_ratio(name, log_probs, reference_log_probs, where, "reference_log_probs")
  return keep(jnp.minimum(jnp.expm1(-log_ratio) + log_ratio, bound), mask)


def _log_ratio(name, log_probs, other, where, other_name):
  """`log_probs - other`, which is stopped, within `_FARTHEST`, 0 where excluded; and the mask."""
  check_same_shape(name, log_probs=log_probs, **{other_name: other})
  log_probs, other = finite_logits(log_probs), jax.lax.stop_gradient(finite_logits(other))
  mask = leading_mask(name, where, log_probs.shape)
  return jnp.clip(keep(log_probs, mask) - keep(other, mask), -_FARTHEST, _FARTHEST), mask
