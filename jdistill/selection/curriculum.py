"""A curriculum over distributions of problems: a bandit whose reward is how much is there to learn (DUMP)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.ops.checks import known


class Windows(NamedTuple):
  """What is remembered of `D` distributions.

  Attributes:
    ring: `[D, k]` float32, the last absolute advantages of each; places that were never filled are 0.
    filled: `[D]` int32, how many of these there are.
    next: `[D]` int32, the place that the next one takes.
    counts: `[D]` int32, how many there were in all.
  """

  ring: jax.Array
  filled: jax.Array
  next: jax.Array
  counts: jax.Array


def empty_windows(distributions: int, size: int) -> Windows:
  """Windows of `size` numbers each, of which none is there.

  Raises:
    ValueError: no distribution, or a size below 1.
  """
  if distributions < 1 or size < 1:
    raise ValueError(f"empty_windows: distributions={distributions} and size={size} must be at least 1")
  zeros = jnp.zeros(distributions, jnp.int32)
  return Windows(jnp.zeros((distributions, size), jnp.float32), zeros, zeros, zeros)


def curriculum_update(
  state: Windows, domain: jax.Array, abs_advantage: jax.Array, where: jax.Array | None = None
) -> Windows:
  """Appends absolute advantages to the windows of their distributions, in their order.

  Args:
    state: the windows so far.
    domain: `[n]` int, the distribution of each roll-out.
    abs_advantage: `[n]`, at least 0.
    where: `[n]` bool, false for what is left out; `None` for nothing.

  Returns:
    The new windows, of the same shapes. Every roll-out counts by itself, as in the released code.

  Raises:
    ValueError: shapes that differ; of arrays that are no tracers, a distribution that is not there, or a number that is
      not finite.
  """
  if domain.ndim != 1 or abs_advantage.shape != domain.shape:
    raise ValueError(f"curriculum_update: domain {domain.shape} and abs_advantage {abs_advantage.shape}; give [n] both")
  distributions, size = state.ring.shape
  there = jnp.ones(domain.shape, bool) if where is None else jnp.asarray(where).astype(bool)
  if all(map(known, (domain, abs_advantage, there))):
    own, values = np.asarray(domain)[np.asarray(there)], np.asarray(abs_advantage)[np.asarray(there)]
    if ((own < 0) | (own >= distributions)).any():
      raise ValueError(
        f"curriculum_update: no distribution {own[(own < 0) | (own >= distributions)][0]} of {distributions}"
      )
    if not np.isfinite(values).all():
      raise ValueError("curriculum_update: an advantage is not finite; a reward was not")
  each = jax.nn.one_hot(jnp.where(there, domain, -1), distributions, dtype=jnp.int32)  # [n, D]
  added = jnp.sum(each, axis=0)
  order = jnp.sum((jnp.cumsum(each, axis=0) - 1) * each, axis=1)  # among those of the same distribution
  row = jnp.where(there, domain, 0)
  last = there & (order >= added[row] - size)  # of more than a window holds, the last ones
  place = (state.next[row] + order) % size
  ring = state.ring.at[jnp.where(last, row, distributions), place].set(abs_advantage.astype(jnp.float32), mode="drop")
  return Windows(ring, jnp.minimum(state.filled + added, size), (state.next + added) % size, state.counts + added)


def window_means(state: Windows) -> jax.Array:
  """`[D]` float32, the mean of each window; 0 of an empty one."""
  there = jnp.arange(state.ring.shape[1])[None] < state.filled[:, None]
  return jnp.sum(jnp.where(there, state.ring, 0), axis=1) / jnp.maximum(state.filled, 1).astype(jnp.float32)


def ucb_scores(mean_abs_advantage: jax.Array, counts: jax.Array) -> jax.Array:
  """`UCB(d) = L(d) + sqrt(2 ln(n + 1) / (n_d + 1))`, `n = sum_d n_d`: what is there to learn, and what is not known.

  Args:
    mean_abs_advantage: `[D]`, L.
    counts: `[D]` int, how many roll-outs of each there were. In another unit, such as prompts of G roll-outs, the bonus
      is greater by about `sqrt(G)`.

  Returns:
    `[D]` float32.

  References:
    Wang et al., "DUMP: Automated Distribution-Level Curriculum Learning for RL-based LLM Post-training"
    (arXiv 2504.09710).
  """
  counts = jnp.asarray(counts).astype(jnp.float32)
  return jnp.asarray(mean_abs_advantage, jnp.float32) + jnp.sqrt(2 * jnp.log1p(jnp.sum(counts)) / (counts + 1))


def curriculum_probs(scores: jax.Array, *, temperature: float | jax.Array) -> jax.Array:
  """`softmax(scores / temperature)`.

  Args:
    scores: `[D]`.
    temperature: above 0; the smaller, the greedier.

  Raises:
    ValueError: a temperature that is not above 0.
  """
  if known(temperature) and not float(temperature) > 0:
    raise ValueError(f"curriculum_probs: temperature={temperature} must be above 0; for greedy choices make it small")
  return jax.nn.softmax(scores / jnp.asarray(temperature, jnp.float32))
