"""The countdown corpus against its law by enumeration, and an exact teacher of it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.diffusion import discrete
from jdistill.synthetic.countdown import (
  countdown_chain,
  countdown_entropy,
  countdown_errors,
  countdown_log_prob,
  countdown_rows,
  score_countdown,
)


def test_rows_obey_the_rule_and_start_anywhere():
  rows = countdown_rows(0, 500, 32, 8)
  assert rows.shape == (500, 32) and rows.dtype == np.int32 and rows.min() == 0 and rows.max() == 7
  for row in rows[:50]:
    assert all(b == a - 1 for a, b in itertools.pairwise(row) if a > 0)
  found = score_countdown(rows, 8)
  assert found.error == 0 and found.valid == 1
  assert found.start_entropy == pytest.approx(np.log(8), abs=0.01)
  np.testing.assert_allclose(np.bincount(rows[:, 0]) / 500, 1 / 8, atol=0.06)
  np.testing.assert_array_equal(rows, countdown_rows(0, 500, 32, 8))
  assert np.any(rows != countdown_rows(1, 500, 32, 8))


def test_errors_are_where_the_rule_breaks():
  rows = np.array([[2, 1, 0, 3, 2], [2, 2, 1, 0, 0], [0, 0, 5, 4, 3], [3, 2, 1, 0, 4]])
  expected = [[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]]  # 5 is no value of 4, nor may anything follow it
  np.testing.assert_array_equal(countdown_errors(rows, 4)[[0, 1]], np.bool_(expected)[[0, 1]])
  np.testing.assert_array_equal(countdown_errors(rows, 4)[2], [False, True, True, True])
  np.testing.assert_array_equal(countdown_errors(rows, 4)[3], np.bool_(expected)[3])
  found = score_countdown(rows, 4)
  assert (found.error, found.valid, found.starts) == (5 / 16, 0.25, 3)
  assert found.start_entropy == pytest.approx(np.log(3) - 2 / 3 * np.log(2))  # 3, 0, 0
  with pytest.raises(ValueError, match=r"rows must be \[n, L\] with L of at least 2, got shape \(3, 1\)"):
    score_countdown(np.zeros((3, 1), int))
  with pytest.raises(ValueError, match="values=1 at least 2"):
    countdown_rows(0, 5, 5, 1)


def test_the_law_is_exact():
  """All rows of five tokens of three values: probabilities add up to 1, and give the entropy."""
  rows = np.array(list(itertools.product(range(3), repeat=5)))
  log_prob = countdown_log_prob(rows, 3)
  probs = np.exp(log_prob)
  assert probs.sum() == pytest.approx(1, rel=1e-12)
  assert countdown_entropy(5, 3) == pytest.approx(-np.sum(probs[probs > 0] * log_prob[probs > 0]), rel=1e-12)
  initial, transition = countdown_chain(3)
  chain = initial[rows[:, 0]] * np.prod([transition[rows[:, i], rows[:, i + 1]] for i in range(4)], axis=0)
  np.testing.assert_allclose(probs, chain, rtol=1e-12)
  assert countdown_log_prob(np.array([[3, 0, 0, 0, 0]]), 3) == -np.inf
  drawn = countdown_rows(0, 20_000, 5, 3)
  shares = np.bincount(np.ravel_multi_index(drawn.T, (3,) * 5), minlength=243) / 20_000
  np.testing.assert_allclose(shares, probs, atol=4 * 0.5 / np.sqrt(20_000))


def test_an_exact_teacher_makes_rows_of_the_corpus():
  """Fewer errors with more steps, and with as many as there are tokens' worth almost none."""
  graph, noise = discrete.absorb(6), discrete.loglinear()
  score = discrete.chain_score(graph, *(jnp.asarray(one, jnp.float32) for one in countdown_chain(6)))
  score_fn = lambda x, sigma: jnp.nan_to_num(score(x, sigma), nan=1.0)  # noqa: E731
  step, errors = discrete.tweedie_step(graph, noise), []
  for steps in (2, 64):
    times = discrete.time_grid(steps)
    run = jax.jit(lambda key, times=times: discrete.sample_tokens(key, score_fn, graph, noise, step, times, (256, 12)))
    errors.append(score_countdown(run(jax.random.key(0)), 6).error)
  assert errors[0] > 0.2 and errors[1] < errors[0] / 5
