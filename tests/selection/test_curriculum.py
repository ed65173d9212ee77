"""DUMP's windows and scores against lists in Python, the expected advantage against all outcomes, and its bandit."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.losses import group_relative_advantage
from jdistill.selection.curriculum import (
  curriculum_probs,
  curriculum_update,
  empty_windows,
  ucb_scores,
  window_means,
)


@pytest.mark.parametrize("size", [1, 3, 50])
def test_windows_keep_the_last_ones(size):
  rng, lists, counts = np.random.default_rng(size), [[], [], []], [0, 0, 0]
  state, update = empty_windows(3, size), jax.jit(lambda *given: curriculum_update(*given))
  for _ in range(6):
    domain, values = rng.integers(0, 3, 8).astype(np.int32), rng.random(8).astype(np.float32)
    where = rng.random(8) < 0.8
    for one, value, there in zip(domain, values, where, strict=True):
      if there:
        lists[one] = [*lists[one], value][-size:]
        counts[one] += 1
    values[~where] = np.nan  # what is left out may be anything
    eager = curriculum_update(state, jnp.asarray(domain), jnp.asarray(values), jnp.asarray(where))
    state = update(state, domain, values, where)
    jax.tree.map(np.testing.assert_array_equal, eager, state)
    np.testing.assert_allclose(window_means(state), [np.mean(own or [0]) for own in lists], rtol=1e-6)
    np.testing.assert_array_equal(state.counts, counts)
    assert [sorted(map(float, row[:n])) for row, n in zip(state.ring, state.filled, strict=True)] == [
      sorted(map(float, own)) for own in lists
    ]
  assert update._cache_size() == 1


def test_scores_and_probabilities_are_the_papers():
  means, counts = np.array([0.3, 0.9, 0.0]), np.array([100, 7, 0])
  expected = means + np.sqrt(2 * np.log(counts.sum() + 1) / (counts + 1))
  scores = ucb_scores(means, counts)
  np.testing.assert_allclose(scores, expected, rtol=1e-6)
  weights = np.exp((expected - expected.max()) / 0.1)
  np.testing.assert_allclose(curriculum_probs(scores, temperature=0.1), weights / weights.sum(), rtol=1e-5)
  np.testing.assert_allclose(curriculum_probs(ucb_scores(np.zeros(4), np.zeros(4)), temperature=0.1), 0.25)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_advantages_are_greatest_where_half_of_the_answers_are_right(rate):
  """The closed form of the card, `2 sqrt(s (1 - s))`, is the limit of many roll-outs; these are eight."""
  outcomes = np.array(list(itertools.product([0.0, 1.0], repeat=8)), np.float32)
  chance = np.prod(np.where(outcomes == 1, rate, 1 - rate), axis=1)
  found = float(np.sum(chance * np.mean(np.abs(group_relative_advantage(outcomes)), axis=1)))
  # a group with m of 8 right has mean |A| = 2 sqrt(m (8 - m) / 64) sqrt(7 / 8)
  right = outcomes.sum(1)
  expected = np.sum(chance * 2 * np.sqrt(right * (8 - right) / 64) * np.sqrt(7 / 8))
  assert found == pytest.approx(expected, rel=1e-4)  # the eps of the deviation is 1e-6 of at least 0.35
  assert found < 2 * np.sqrt(0.25)


def bandit(seed, temperature, *, adaptive, skills=12, batch=32, group=8, steps=400):
  """The card's simulation, skills that rise with `s (1 - s)` and leak to the next one: mean success and weights."""
  difficulty = jnp.linspace(-1.0, 6.0, skills)

  def step(carry, key):
    skill, state = carry
    success = jax.nn.sigmoid(skill - difficulty)
    scores = ucb_scores(window_means(state), state.counts)
    p = curriculum_probs(scores, temperature=temperature) if adaptive else jnp.full(skills, 1 / skills)
    key_domain, key_reward = jax.random.split(key)
    domain = jax.random.categorical(key_domain, jnp.log(p), shape=(batch,))
    rewards = jax.random.bernoulli(key_reward, success[domain][:, None], (batch, group)).astype(jnp.float32)
    advantages = jnp.abs(group_relative_advantage(rewards))
    state = curriculum_update(state, jnp.repeat(domain, group), advantages.reshape(-1))
    share = jax.nn.one_hot(domain, skills).mean(0)
    gain = share * success * (1 - success)
    skill = skill + 3.0 * (gain + 0.5 * jnp.pad(gain, (1, 0))[:-1])
    return (skill, state), (jnp.mean(success), p)

  start = jnp.zeros(skills), empty_windows(skills, 300)
  _, (success, p) = jax.lax.scan(step, start, jax.random.split(jax.random.key(seed), steps))
  return success, p


def test_the_bandit_reaches_its_goal_in_fewer_steps_than_uniform_draws_and_goes_from_easy_to_hard():
  run = {name: jax.jit(jax.vmap(lambda seed, own=own: bandit(seed, 0.1, adaptive=own))) for name, own in
         {"dump": True, "uniform": False}.items()}  # fmt: skip
  found = {name: jax.device_get(function(jnp.arange(5))) for name, function in run.items()}
  reached = {name: np.argmax(success >= 0.8, axis=1) for name, (success, _) in found.items()}
  assert (found["dump"][0].max(1) >= 0.8).all()
  uniform = np.where((found["uniform"][0] >= 0.8).any(1), reached["uniform"], found["uniform"][0].shape[1])
  assert (reached["dump"] < 0.8 * uniform).all()
  place = found["dump"][1] @ np.arange(12)  # the mean difficulty that is drawn
  early, late = (
    place[:, 5:30].mean(1),
    np.array([row[n - 20 : n].mean() for row, n in zip(place, reached["dump"], strict=True)]),
  )
  assert (late > early + 1).all()


def test_bad_input_is_refused():
  state = empty_windows(2, 3)
  with pytest.raises(ValueError, match="size=0 must be at least 1"):
    empty_windows(2, 0)
  with pytest.raises(ValueError, match="no distribution 2 of 2"):
    curriculum_update(state, jnp.int32([0, 2]), jnp.ones(2))
  with pytest.raises(ValueError, match="not finite; a reward was not"):
    curriculum_update(state, jnp.int32([0, 1]), jnp.float32([1, np.nan]))
  with pytest.raises(ValueError, match="give \\[n\\] both"):
    curriculum_update(state, jnp.int32([0, 1]), jnp.ones(3))
  for temperature in (0.0, -1.0, float("nan")):
    with pytest.raises(ValueError, match="must be above 0"):
      curriculum_probs(jnp.zeros(2), temperature=temperature)
