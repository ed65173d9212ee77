"""Reductions at unequal lengths, log-probabilities of sequences, and policy gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_losses as formulas
import pytest

from jdistill import losses

VALUES = np.arange(1.0, 13.0).reshape(3, 4)
LENGTHS = np.array([4, 1, 0])
MASK = np.arange(4)[None] < LENGTHS[:, None]
# the valid values are 1, 2, 3, 4 and 5; the third sequence has none
WANTED = {"token_mean": 15 / 5, "sequence_mean": (2.5 + 5) / 2, "sequence_sum": (10 + 5) / 2}
SLOPES = {
  "token_mean": [[0.2] * 4, [0.2, 0, 0, 0], [0] * 4],
  "sequence_mean": [[0.125] * 4, [0.5, 0, 0, 0], [0] * 4],
  "sequence_sum": [[0.5] * 4, [0.5, 0, 0, 0], [0] * 4],
}


@pytest.mark.parametrize("reduction", WANTED)
@pytest.mark.parametrize("wrapped", [jax.jit, lambda f: f])
def test_reductions_of_unequal_lengths(reduction, wrapped):
  both = wrapped(jax.value_and_grad(lambda v, m: losses.reduce_tokens(v, m, reduction=reduction)))
  spoilt = np.where(MASK, VALUES, np.nan).astype(np.float32)
  value, gradient = both(spoilt, MASK)
  np.testing.assert_allclose(value, WANTED[reduction], rtol=1e-6)
  np.testing.assert_allclose(gradient, SLOPES[reduction], rtol=1e-6)
  twice, _ = both(np.concatenate([spoilt, spoilt]), np.concatenate([MASK, MASK]))
  np.testing.assert_allclose(twice, value, rtol=1e-6)
  nothing, none = both(spoilt, np.zeros_like(MASK))
  assert nothing == 0 and not none.any()


def test_reductions_agree_at_equal_lengths_but_for_the_length():
  x = jnp.float32(VALUES)
  assert losses.reduce_tokens(x) == losses.reduce_tokens(x, reduction="sequence_mean") == 6.5
  assert losses.reduce_tokens(x, reduction="sequence_sum") == 4 * 6.5
  np.testing.assert_allclose(losses.reduce_tokens(x, [True, False, True], reduction="sequence_mean"), 6.5)


def test_bad_reductions():
  with pytest.raises(ValueError, match="reduction='mean' is not one of token_mean, sequence_mean, sequence_sum"):
    losses.reduce_tokens(VALUES, reduction="mean")
  with pytest.raises(ValueError, match="values must have 2 axes"):
    losses.reduce_tokens(VALUES[0])


def test_log_probabilities_of_sequences(x64):
  rng = np.random.default_rng(0)
  z, tokens = rng.normal(size=(3, 4, 6)), rng.integers(0, 6, (3, 4))
  want = np.where(MASK, np.take_along_axis(formulas.log_softmax(z), tokens[..., None], -1)[..., 0], 0).sum(1)
  total, length = jax.jit(lambda z, m: losses.sequence_log_prob(z, tokens, where=m))(z, MASK)
  np.testing.assert_allclose(total, want, rtol=1e-12)
  np.testing.assert_array_equal(length, LENGTHS)
  assert length.dtype == jnp.int32
  np.testing.assert_array_equal(losses.sequence_log_prob(z, tokens, where=[True, False, True])[1], [4, 0, 4])
  gradient = jax.grad(lambda z: losses.sequence_log_prob(z, tokens, where=MASK)[0].sum())(jnp.asarray(z))
  onehot = np.eye(6)[tokens]
  np.testing.assert_allclose(
    gradient, np.where(MASK[..., None], onehot - formulas.softmax(z), 0), rtol=1e-9, atol=1e-14
  )


def test_advantages_of_a_group():
  rewards = np.float32([[2, -1.5, -1.5, 2], [1, 1, 1, 1], [2, np.nan, np.nan, 0], [3, 0, 0, 0]])
  where = np.array([[1, 1, 1, 1], [1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 0, 0]], bool)
  found = jax.jit(lambda r, m: losses.group_relative_advantage(r, where=m))(rewards, where)
  spread = 3.5 / np.sqrt(3)  # of four rewards, with 3 in the denominator
  a, b = 1.75 / spread, 0.5**0.5
  want = [[a, -a, -a, a], [0, 0, 0, 0], [b, 0, 0, -b], [3, 0, 0, 0]]
  np.testing.assert_allclose(found, want, rtol=1e-5)
  assert not jax.grad(lambda r: losses.group_relative_advantage(r).sum())(jnp.ones((2, 3))).any()


@pytest.mark.parametrize("success", [0.02, 0.1, 0.3, 0.5, 0.9])
def test_the_mean_advantage_of_binary_rewards_peaks_at_one_half(success):
  """DUMP: about 2 sqrt(s (1 - s)) for groups of 16; here all groups of 16 by their number of successes."""
  count = np.arange(17)
  rewards = np.float32(np.arange(16)[None] < count[:, None])
  size = np.abs(losses.group_relative_advantage(rewards)).mean(1)
  binomial = np.array([1.0])
  for _ in range(16):
    binomial = np.convolve(binomial, [1 - success, success])
  want = {0.02: 0.13, 0.1: 0.50, 0.3: 0.85, 0.5: 0.94, 0.9: 0.49}[success]
  np.testing.assert_allclose(binomial @ size, want, atol=0.02)


def test_the_clipped_surrogate():
  log_ratio = jnp.log(jnp.float32([[0.5, 1.0, 2.0, 2.0]]))
  sides = log_ratio - 1.0, jnp.full((1, 4), -1.0)
  advantage = jnp.float32([[1.0, 3.0, 1.0, -1.0]])
  value, gradient = jax.value_and_grad(lambda x: losses.clipped_policy_loss(x, sides[1], advantage, clip=0.2).sum())(
    sides[0]
  )
  np.testing.assert_allclose(losses.clipped_policy_loss(*sides, advantage), [[-0.5, -3.0, -1.2, 2.0]], rtol=1e-6)
  np.testing.assert_allclose(gradient, [[-0.5, -3.0, 0.0, 2.0]], rtol=1e-6)  # -A times the ratio, 0 where clipped
  np.testing.assert_allclose(value, -2.7, rtol=1e-5)
  one_each = losses.clipped_policy_loss(*sides, jnp.float32([2.0]))
  np.testing.assert_allclose(one_each, [[-1.0, -2.0, -2.4, -2.4]], rtol=1e-6)
  with pytest.raises(ValueError, match=r"advantages \(4,\) must be a leading part of \(1, 4\)"):
    losses.clipped_policy_loss(*sides, jnp.ones(4))
  impossible = jnp.float32([[-jnp.inf]])
  assert losses.clipped_policy_loss(impossible, impossible, jnp.ones((1, 1))) == -1
  assert np.isfinite(losses.clipped_policy_loss(jnp.zeros((1, 1)), impossible, -jnp.ones((1, 1)))).all()


def test_k3_is_the_divergence_in_the_mean(x64):
  """Exactly: the sum over all tokens of their probability times the estimate."""
  rng = np.random.default_rng(0)
  p, q = (formulas.log_softmax(rng.normal(size=(1, 6))) for _ in range(2))
  estimate = losses.k3_kl(p, q)
  assert (estimate >= 0).all()
  np.testing.assert_allclose(np.sum(np.exp(p) * estimate), np.sum(np.exp(p) * (p - q)), rtol=1e-10)
  np.testing.assert_allclose(losses.k3_kl([[0.0]], [[5.0]]), 10)
