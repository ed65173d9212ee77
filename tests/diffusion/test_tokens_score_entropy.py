"""Score entropy against its definition by loops, against enumeration of a small chain, and the release's constants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import token_chain as chain
from scipy import linalg

from jdistill.diffusion.discrete import (
  absorb,
  chain_score,
  log_score,
  loglinear,
  score_entropy,
  score_entropy_loss,
  uniform,
)

GRAPHS = {"absorb": absorb(chain.TOKENS), "uniform": uniform(chain.TOKENS)}


def by_definition(kind, log_s, sigma, x, x0):
  """`sum_{y != x} Q[x, y] (s - r log s + r (log r - 1))` of one token."""
  q = chain.generator(kind)
  p = linalg.expm(sigma * q)[:, x0]
  total = 0.0
  for y in range(len(q)):
    if y != x and q[x, y]:
      r = p[y] / p[x]
      total += q[x, y] * (np.exp(log_s[y]) - r * log_s[y] + (r * (np.log(r) - 1) if r else 0))
  return total


def tokens(kind):
  """All pairs of a noisy token and a data token that can have been it."""
  q = chain.generator(kind)
  return [(x, x0) for x in range(len(q)) for x0 in range(chain.TOKENS) if linalg.expm(q)[x, x0] > 0]


@pytest.mark.parametrize("kind", GRAPHS)
@pytest.mark.parametrize("sigma", [1e-3, 0.7, 6.0])
def test_it_is_the_definition(kind, sigma, x64):
  graph = GRAPHS[kind]
  x, x0 = (jnp.asarray(one, jnp.int32) for one in zip(*tokens(kind), strict=True))
  log_s = np.random.default_rng(0).normal(size=(len(x), graph.states))
  expected = [by_definition(kind, log_s[i], sigma, int(x[i]), int(x0[i])) for i in range(len(x))]
  for run in (jax.jit(score_entropy, static_argnums=0), *((score_entropy,) if sigma == 0.7 else ())):
    found = run(graph, jnp.asarray(log_s), jnp.float64(sigma), x, x0)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
  assert min(expected) >= 0


@pytest.mark.parametrize("kind", GRAPHS)
def test_it_is_zero_at_the_true_ratios_and_above_elsewhere(kind, x64):
  graph, sigma, q = GRAPHS[kind], 0.8, chain.generator(kind)
  x, x0 = (jnp.asarray(one, jnp.int32) for one in zip(*tokens(kind), strict=True))
  p = linalg.expm(sigma * q)[:, x0].T  # [n, states]
  ratios = np.maximum(p / np.take_along_axis(p, np.asarray(x)[:, None], 1), 1e-300)
  loss = jax.jit(lambda log_s: score_entropy(graph, log_s, jnp.float64(sigma), x, x0))
  np.testing.assert_allclose(loss(jnp.log(ratios)), 0, atol=1e-12)
  gradient = jax.jit(jax.grad(lambda log_s: jnp.sum(loss(log_s))))(jnp.log(ratios))
  np.testing.assert_allclose(gradient, 0, atol=1e-12)
  moved = loss(jnp.log(ratios) + 0.5)
  assert np.all(np.asarray(moved)[np.asarray(graph.transposed_rate(x)).max(1) > 0] > 0.01)


@pytest.mark.parametrize("kind", GRAPHS)
def test_its_mean_over_the_data_is_least_at_the_scores_of_the_noisy_law(kind, x64):
  """And what is lost by other scores is the score entropy against those, by enumeration of all rows."""
  graph, sigma, q = GRAPHS[kind], 0.6, chain.generator(kind)
  rows = chain.rows(graph.states)
  data = chain.data_law(graph.states).ravel()
  kernel = linalg.expm(sigma * q)
  joint = data[None] * np.prod(kernel[rows[:, None], rows[None]], axis=2)  # [noisy, clean]
  noisy = joint.sum(1)
  np.testing.assert_allclose(noisy, chain.noisy_law(kind, sigma).ravel(), rtol=1e-10, atol=1e-15)
  pairs = np.argwhere(joint > 0)
  x, x0 = jnp.asarray(rows[pairs[:, 0]]), jnp.asarray(rows[pairs[:, 1]])
  weights = jnp.asarray(joint[tuple(pairs.T)])
  true = np.where(noisy[:, None, None] > 0, chain.scores(chain.noisy_law(kind, sigma)), 1.0)
  true = np.log(np.maximum(true, 1e-30))

  @jax.jit
  def mean(log_s):
    return jnp.sum(weights * jnp.sum(score_entropy(graph, log_s[pairs[:, 0]], jnp.float64(sigma), x, x0), -1))

  value, gradient = jax.jit(jax.value_and_grad(mean))(jnp.asarray(true))
  np.testing.assert_allclose(gradient, 0, atol=1e-10)
  other = true + np.random.default_rng(1).normal(size=true.shape) * 0.5
  gap = np.exp(other) - np.exp(true) * (other - true) - np.exp(true)
  rates = np.asarray(graph.transposed_rate(jnp.asarray(rows))) * (np.arange(graph.states) != rows[..., None])
  expected = np.sum(noisy[:, None, None] * rates * gap)
  assert expected > 0.01
  np.testing.assert_allclose(mean(jnp.asarray(other)) - value, expected, rtol=1e-9)


@pytest.mark.parametrize("kind", GRAPHS)
def test_the_chain_has_its_exact_score(kind, x64):
  graph = GRAPHS[kind]
  rows = jnp.asarray(chain.rows(graph.states))
  score_fn = chain_score(graph, jnp.asarray(chain.INITIAL), jnp.asarray(chain.TRANSITION))
  for sigma in (0.05, 1.3):
    law = chain.noisy_law(kind, sigma)
    found, occurs = jax.jit(score_fn)(rows, jnp.full(len(rows), sigma)), law.ravel() > 0
    assert occurs.sum() > 20
    np.testing.assert_allclose(found[occurs], chain.scores(law)[occurs], rtol=1e-9)
  with pytest.raises(ValueError, match=r"chain_score: 3 tokens need initial \(3,\) and transition \(3, 3\)"):
    chain_score(graph, jnp.ones(4) / 4, jnp.asarray(chain.TRANSITION))


def test_outputs_become_log_scores():
  graph, sigma = absorb(3), jnp.array([0.2, 3.0])
  outputs = jnp.asarray(np.random.default_rng(0).normal(size=(2, 2, 4)), jnp.float32)
  x = jnp.array([[3, 1], [0, 3]], jnp.int32)
  scaled = jax.jit(log_score, static_argnums=0, static_argnames="scale")
  found = np.asarray(scaled(graph, outputs, x, sigma))
  expected = np.asarray(outputs, np.float64) - np.log(np.expm1([[[0.2]], [[3.0]]])) - np.log(3)
  expected[np.arange(2)[:, None], np.arange(2)[None], np.asarray(x)] = 0
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
  plain = np.where(np.arange(4) == np.asarray(x)[..., None], 0, np.asarray(outputs))
  np.testing.assert_array_equal(scaled(graph, outputs, x, sigma, scale=False), plain)
  assert scaled(uniform(4), outputs.astype(jnp.bfloat16), x, sigma).dtype == jnp.float32


@pytest.mark.parametrize("kind", GRAPHS)
def test_what_does_not_count_reaches_nothing(kind):
  """NaN in padded tokens, and in the absorbing graph at tokens that are not masked; bfloat16 as float32 of the same."""
  graph = GRAPHS[kind]
  x = jnp.array([[0, graph.states - 1, 1], [graph.states - 1, 2, 0]], jnp.int32)
  x0 = jnp.array([[0, 1, 1], [2, 2, 0]], jnp.int32)
  where = jnp.array([[True, True, False], [True, False, False]])
  log_s = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, graph.states)), jnp.bfloat16)
  sigma = jnp.array([0.3, 1.0])

  def total(log_s, where=where):
    return jnp.sum(score_entropy(graph, log_s, sigma, x, x0, where=where))

  read = np.asarray(where)[..., None] & ((np.asarray(x) == graph.mask)[..., None] if kind == "absorb" else True)
  value, gradient = jax.jit(jax.value_and_grad(total))(jnp.where(read, log_s, jnp.nan))
  np.testing.assert_allclose(value, jax.jit(total)(log_s.astype(jnp.float32)), rtol=1e-6)
  gradient = np.asarray(gradient, np.float32)
  assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0
  assert not gradient[~np.asarray(where)].any()


def test_the_loss_sums_over_tokens_at_the_rate_of_the_noise():
  graph, noise, key = absorb(3), loglinear(), jax.random.key(0)
  x0 = jnp.asarray(np.random.default_rng(0).integers(0, 3, (5, 7)), jnp.int32)
  table = jnp.asarray(np.random.default_rng(1).normal(size=(4, 4)), jnp.float32)

  @jax.jit
  def run(key):
    seen = []

    def score_fn(x, sigma):
      seen.append((x, sigma))
      return log_score(graph, table[x], x, sigma)

    drawn = score_entropy_loss(key, score_fn, graph, noise, x0)
    x, sigma = seen[0]
    entropy = score_entropy(graph, log_score(graph, table[x], x, sigma), sigma, x, x0)
    given = score_entropy_loss(key, score_fn, graph, noise, x0, t=jnp.full(5, 1.0), where=jnp.arange(5) < 2)
    return drawn, sigma, entropy, given, seen[1][1]

  drawn, sigma, entropy, given, last = map(np.asarray, run(key))
  t = -np.expm1(-sigma) / 0.999
  assert drawn.shape == (5,) and np.all((t >= 1e-3) & (t <= 1)) and np.ptp(t) > 0.1
  np.testing.assert_allclose(drawn, 0.999 / (1 - 0.999 * t) * entropy.sum(1), rtol=1e-4)
  np.testing.assert_allclose(last, np.log(1000), rtol=1e-4)
  assert np.all(given[:2] > 0) and not given[2:].any()


def test_shapes_are_checked():
  graph, x = absorb(3), jnp.zeros((2, 5), jnp.int32)
  with pytest.raises(ValueError, match=r"the mask is a state too, so a network of 3 tokens needs 4 outputs"):
    score_entropy(graph, jnp.zeros((2, 5, 3)), jnp.float32(1), x, x)
  with pytest.raises(ValueError, match=r"log_score: scores of tokens \(2, 5\) must be \(2, 5, 4\), got \(2, 6, 4\)"):
    log_score(graph, jnp.zeros((2, 6, 4)), x, jnp.float32(1))
