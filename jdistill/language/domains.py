"""Losses and perplexities of domains."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jdistill.base import PyTree


def target_losses(logits: jax.Array, targets: jax.Array) -> jax.Array:
  """`-log softmax(z)[target]` in float32; shapes `[..., V]` and `[...]`."""
  log_probs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
  return -jnp.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]


def mean_by_domain(values: jax.Array, where: jax.Array, domain: jax.Array, count: int) -> jax.Array:
  """The mean of what counts, domain by domain: `[count]` float32, NaN for one in which nothing counts.

  Args:
    values: `[n, ...]`.
    where: of the same shape, bool; values elsewhere may be anything.
    domain: `[n]` int, from 0.
    count: how many domains there are.
  """
  axes = tuple(range(1, values.ndim))
  total = jnp.sum(jnp.where(where, values.astype(jnp.float32), 0.0), axis=axes)
  tokens = jnp.sum(where, axis=axes, dtype=jnp.float32)
  sums = (jnp.zeros(count, jnp.float32).at[domain].add(one) for one in (total, tokens))
  total, tokens = sums
  return jnp.where(tokens > 0, total / jnp.maximum(tokens, 1), jnp.nan)


def domain_perplexity(
  apply: Callable[[PyTree, jax.Array], jax.Array], params: PyTree, val: jax.Array, mask: jax.Array
) -> jax.Array:
  """`exp(mean over the valid tokens of a domain of -log p(x_t | x_<t))` for every domain.

  Args:
    apply: `(params, tokens [n, T]) -> logits [n, T, V]`; position `t` predicts token `t + 1`.
    params: of the model.
    val: `[D, n, T]` tokens of the held-out sequences of each domain.
    mask: `[D, n, T]` bool, the tokens that count as targets; the first of a sequence never does.

  Returns:
    `[D]` float32; NaN for a domain in which nothing counts.

  Raises:
    ValueError: shapes that do not fit, or an empty domain.
  """
  if val.ndim != 3 or mask.shape != val.shape or min(val.shape[:2]) < 1 or val.shape[2] < 2:
    raise ValueError(f"domain_perplexity: tokens {val.shape} and mask {mask.shape} must be one [D, n, T], none empty")

  def one(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
    tokens, where = pair
    losses = target_losses(apply(params, tokens)[:, :-1], tokens[:, 1:])
    zero = jnp.zeros(tokens.shape[0], jnp.int32)
    return mean_by_domain(losses, where[:, 1:].astype(bool), zero, 1)[0]

  return jnp.exp(lax.map(one, (jnp.asarray(val), jnp.asarray(mask))))
