"""Returns, whitening and importance weights of policy gradients beside plain NumPy, and what they mean together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import losses

RNG = np.random.default_rng(3)
REWARDS = RNG.normal(size=(3, 6))
WHERE = np.array([[False, True, True, False, True, True], [True, True, False, False, False, False], [False] * 6])


def by_hand(discount, own, length_norm):
  """The definition, over the valid tokens of each row as if the others were not there."""
  found = np.zeros_like(REWARDS)
  for b in range(3):
    places = np.flatnonzero(WHERE[b])
    for i, t in enumerate(places):
      later = REWARDS[b, places[i if own else i + 1 :]]
      total = np.sum(discount ** np.arange(len(later)) * later)
      found[b, t] = total / max(len(later), 1) if length_norm else total
  return found


@pytest.mark.parametrize("discount", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("length_norm", [True, False])
def test_returns_over_valid_tokens(x64, discount, own, length_norm):
  rewards = jnp.asarray(np.where(WHERE, REWARDS, np.nan))  # what is excluded may be anything
  found = losses.discounted_returns(rewards, discount=discount, own=own, length_norm=length_norm, where=WHERE)
  np.testing.assert_allclose(found, by_hand(discount, own, length_norm), rtol=1e-12, atol=1e-14)


def test_whitening_with_padding_left_out_and_as_in_the_release(x64):
  values = np.where(WHERE, 3 + REWARDS, np.nan)
  own = values[WHERE]
  found = losses.whiten_advantages(values, where=WHERE)
  np.testing.assert_allclose(found[WHERE], (own - own.mean()) / np.sqrt(own.var() + 1e-8), rtol=1e-12)
  padded = np.where(WHERE, values, 0)
  released = losses.whiten_advantages(values, where=WHERE, padding=True)
  np.testing.assert_allclose(
    released[WHERE], ((padded - padded.mean()) / np.sqrt(padded.var() + 1e-8))[WHERE], rtol=1e-12
  )
  assert not found[~WHERE].any() and not released[~WHERE].any()
  assert np.abs(np.asarray(found - released)[WHERE]).max() > 0.1
  assert not losses.whiten_advantages(values, where=np.zeros_like(WHERE)).any()


def test_bfloat16_is_widened():
  values = jnp.asarray(REWARDS, jnp.bfloat16)
  for found in (losses.discounted_returns(values), losses.whiten_advantages(values)):
    assert found.dtype == jnp.float32 and np.isfinite(found).all()


def test_weights_make_the_mixture_s_samples_the_student_s(x64):
  """Exactly: the mean over the mixture of the weight times anything is the student's mean of it."""
  q, p, f = jax.nn.softmax(RNG.normal(size=7)), jax.nn.softmax(3 * RNG.normal(size=7)), RNG.normal(size=7)
  weight = losses.mixture_weight(jnp.log(q), jnp.log(p), share=0.2)
  assert float(jnp.sum((0.8 * q + 0.2 * p) * weight * f)) == pytest.approx(float(jnp.sum(q * f)), rel=1e-12)
  assert (weight <= 1 / 0.8).all()
  np.testing.assert_allclose(losses.mixture_weight(jnp.log(q), jnp.log(p), share=0.0), 1, rtol=1e-12)


def test_tokens_that_the_teacher_excludes_have_the_least_reward():
  log_q, log_p = jnp.float32([-1.0, -1.0, -3.0]), jnp.float32([-jnp.inf, -2.0, -1.0])
  np.testing.assert_allclose(losses.log_ratio_rewards(log_q, log_p, bound=50.0), [-50, -2, 4], rtol=1e-6)
  np.testing.assert_allclose(losses.mixture_weight(log_q, log_p, share=0.2)[0], 1.25, rtol=1e-6)


def test_the_clip_acts_before_or_after_the_weight():
  new, old, advantage = jnp.log(jnp.float32([[1.5, 1.5]])), jnp.zeros((1, 2)), jnp.float32([[1.0, 1.0]])
  weights = jnp.float32([[0.5, 1.2]])
  after = losses.clipped_policy_loss(new, old, advantage, weights=weights)
  np.testing.assert_allclose(after, [[-0.75, -1.2]], rtol=1e-6)  # 1.5 * 0.5 and 1.5 * 1.2, the second clipped to 1.2
  before = losses.clipped_policy_loss(new, old, advantage, weights=weights, clip_weighted=False)
  np.testing.assert_allclose(before, [[-0.6, -1.44]], rtol=1e-6)  # 1.2 times the weights
  with pytest.raises(ValueError, match="shapes must be equal"):
    losses.clipped_policy_loss(new, old, advantage, weights=jnp.ones(2))


def test_bad_input():
  with pytest.raises(ValueError, match="rewards must have 2 axes"):
    losses.discounted_returns(jnp.zeros(3))
  with pytest.raises(ValueError, match=r"discount must be in \[0, 1\]"):
    losses.discounted_returns(jnp.zeros((1, 3)), discount=1.5)
  with pytest.raises(ValueError, match=r"share must be in \[0, 1\]"):
    losses.mixture_weight(jnp.zeros(3), jnp.zeros(3), share=-0.1)
