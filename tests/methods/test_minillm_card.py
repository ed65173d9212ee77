"""MiniLLM on two laboratories: variances of its two estimators, and one mode of a teacher that has two."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import losses

SIZE, LENGTH = 3, 3
TOKENS = jnp.array(list(itertools.product(range(SIZE), repeat=LENGTH)))
# every beginning of a sequence has a row of logits of its own
PREFIX = jnp.stack([0 * TOKENS[:, 0], 1 + TOKENS[:, 0], 1 + SIZE + SIZE * TOKENS[:, 0] + TOKENS[:, 1]], 1)
PLACES, STAYS, BATCH, UPDATES, RATE = 6, 0.98, 32, 300, 1.0


def tables(seed):
  rng = np.random.default_rng(seed)
  return [jnp.asarray(rng.normal(size=(1 + SIZE + SIZE**2, SIZE))) for _ in range(2)]


@pytest.mark.parametrize("seed", range(3))
def test_the_exact_part_has_the_lesser_variance(seed, x64):
  """Sums over all sequences: both estimators have the same mean, and the one with sampled rewards varies more."""
  student, teacher = tables(seed)

  def chosen(table):
    return -losses.cross_entropy(table[PREFIX], TOKENS)

  old = chosen(student)
  rewards = losses.log_ratio_rewards(old, chosen(teacher), scale=1.0)

  def each(table, exact):
    """One sequence's part, `[27]`."""
    returns = losses.discounted_returns(rewards, own=not exact)
    long = losses.clipped_policy_loss(chosen(table), old, returns, clip=0.2)
    return jnp.sum(long + exact * losses.reverse_kl(table[PREFIX], teacher[PREFIX]), 1)

  weight, found = np.exp(old.sum(1)), []
  for exact in (0.0, 1.0):
    grads = np.asarray(jax.jacobian(each)(student, exact)).reshape(len(TOKENS), -1)
    mean = weight @ grads
    found.append((mean, weight @ np.sum((grads - mean) ** 2, 1)))
  (one, sampled), (other, exact) = found
  np.testing.assert_allclose(one, other, atol=1e-12)
  assert exact < 0.8 * sampled


def teacher_logits(tokens):
  """Two modes: the first token is fair, and each of the others is the one before with probability `STAYS`."""
  before = jnp.concatenate([jnp.full_like(tokens[:, :1], -1), tokens[:, :-1]], 1)[..., None]
  same = before == jnp.arange(2)[None, None]
  return jnp.where(before < 0, jnp.log(0.5), jnp.where(same, jnp.log(STAYS), jnp.log(1 - STAYS)))


def trained(reverse, seed):
  """A student that draws every place by itself, `[PLACES, 2]` logits, after some hundred updates."""
  start = 0.01 * jax.random.normal(jax.random.key(seed), (PLACES, 2))

  def loss(logits, tokens):
    own = jnp.broadcast_to(logits[None], (*tokens.shape, 2))
    if not reverse:
      return jnp.mean(losses.kl_divergence(own, teacher_logits(tokens)))
    taken, theirs = (-losses.cross_entropy(z, tokens) for z in (own, teacher_logits(tokens)))
    old = jax.lax.stop_gradient(taken)
    returns = losses.discounted_returns(losses.log_ratio_rewards(old, theirs, scale=1.0), own=False)
    long = losses.clipped_policy_loss(taken, old, returns - jnp.mean(returns, 0, keepdims=True), clip=0.2)
    return jnp.mean(long + losses.reverse_kl(own, teacher_logits(tokens)))

  def update(logits, key):
    if reverse:
      tokens = jax.random.categorical(key, logits, shape=(BATCH, PLACES))
    else:
      first, stays = jax.random.bernoulli(key, 0.5, (BATCH, 1)), jax.random.bernoulli(key, STAYS, (BATCH, PLACES - 1))
      flips = jnp.cumsum(~stays, 1) % 2
      tokens = jnp.concatenate([first, jnp.where(flips == 1, ~first, first)], 1).astype(jnp.int32)
    return logits - RATE * jax.grad(loss)(logits, tokens), None

  keys = jax.random.split(jax.random.key(seed + 100), UPDATES)
  return jax.lax.scan(update, start, keys)[0]


def test_reverse_divergence_takes_one_mode_and_forward_covers_both():
  """The card's proof: precision is the student's share of the two modes, recall theirs under the student."""
  of_modes = {}
  for reverse in (True, False):
    share = jax.nn.softmax(jax.jit(jax.vmap(lambda seed, r=reverse: trained(r, seed)))(jnp.arange(5)), -1)
    of_modes[reverse] = np.asarray(jnp.prod(share, 1))  # [seeds, 2], all zeros and all ones
  precision = {name: found.sum(1) for name, found in of_modes.items()}
  least = {name: found.min(1) for name, found in of_modes.items()}
  assert precision[True].min() > 0.9 and least[True].max() < 1e-3  # one mode, whichever it is
  assert precision[False].max() < 0.1 and least[False].min() > 1e-3  # both, and all that lies between them
