"""Graphs and noise of tokens against matrix exponentials and derivatives, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import token_chain as chain
from scipy import linalg

from jdistill.diffusion.discrete import absorb, geometric, loglinear, uniform

GRAPHS = {"absorb": absorb, "uniform": uniform}
TOKENS = 4


@pytest.mark.parametrize("kind", GRAPHS)
def test_a_graph_is_its_generator(kind, x64):
  """Every function is a column, a row or a product of `Q` and its exponentials; `sigma` may differ by row."""
  graph, q = GRAPHS[kind](TOKENS), chain.generator(kind, TOKENS)
  assert graph.states == len(q) and graph.tokens == TOKENS
  x = jnp.asarray(np.random.default_rng(0).integers(0, graph.states, (2, 5)), jnp.int32).at[0, 0].set(graph.states - 1)
  sigma = jnp.array([1e-3, 2.5])
  score = jnp.asarray(np.random.default_rng(1).uniform(0.1, 3, (2, 5, graph.states)))
  plain = jax.jit(lambda: (graph.rate(x), graph.transposed_rate(x), graph.transition(x, jnp.float64(0.3))))()
  for found, expected in zip(plain, (q.T[x], q[x], linalg.expm(0.3 * q).T[x]), strict=True):
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)
  by_row = lambda s: (graph.transition(x, s), graph.transposed_transition(x, s), graph.staggered_score(score, s))  # noqa: E731
  forwards, backwards, earlier = jax.jit(by_row)(sigma)
  for b, power in enumerate(linalg.expm(s * q) for s in np.asarray(sigma)):
    np.testing.assert_allclose(forwards[b], power.T[x[b]], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(backwards[b], power[x[b]], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(earlier[b], np.asarray(score[b]) @ linalg.inv(power).T, rtol=1e-11, atol=1e-12)
  np.testing.assert_allclose(linalg.expm(60 * q) @ graph.prior, graph.prior, atol=1e-12)


@pytest.mark.parametrize("kind", GRAPHS)
def test_samples_follow_the_transition(kind):
  graph, count = GRAPHS[kind](TOKENS), 40_000
  x = jnp.broadcast_to(jnp.arange(TOKENS, dtype=jnp.int32)[None], (count // 2, TOKENS))
  x = jnp.concatenate([x, x])
  sigma = jnp.concatenate([jnp.full(count // 2, 0.4), jnp.full(count // 2, 1.5)])
  drawn = np.asarray(jax.jit(graph.sample)(jax.random.key(0), x, sigma))
  for half, s in enumerate((0.4, 1.5)):
    expected = linalg.expm(s * chain.generator(kind, TOKENS))
    for token in range(TOKENS):
      own = drawn[half * count // 2 : (half + 1) * count // 2, token]
      shares = np.bincount(own, minlength=graph.states) / len(own)
      np.testing.assert_allclose(shares, expected[:, token], atol=4 * 0.5 / np.sqrt(len(own)))  # four standard errors
  prior = np.asarray(graph.sample_prior(jax.random.key(1), (200, 50)))
  np.testing.assert_allclose(np.bincount(prior.ravel(), minlength=graph.states) / prior.size, graph.prior, atol=0.02)
  assert prior.dtype == np.int32


@pytest.mark.parametrize("noise", [loglinear(0.01), geometric(1e-3, 3.0)])
def test_the_rate_is_the_derivative_of_the_total(noise, x64):
  t = jnp.linspace(0.05, 0.95, 7)
  np.testing.assert_allclose((noise.sigma(t + 1e-6) - noise.sigma(t - 1e-6)) / 2e-6, noise.rate(t), rtol=1e-7)


def test_published_noise(x64):
  np.testing.assert_allclose(1 - np.exp(-loglinear().sigma(jnp.array([0.0, 0.5, 1.0]))), [0, 0.4995, 0.999], rtol=1e-12)
  np.testing.assert_allclose(
    geometric(1e-4, 20.0).sigma(jnp.array([0.0, 0.5, 1.0])), [1e-4, 0.0447213595, 20], rtol=1e-8
  )


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: absorb(0), "absorb: tokens must be at least 1, got 0"),
    (lambda: uniform(1), "uniform: tokens must be at least 2, got 1"),
    (lambda: loglinear(0.0), "loglinear: eps must be in"),
    (lambda: geometric(0.0), "geometric: sigma_min must be > 0"),
    (lambda: geometric(1.0, 0.5), "geometric: sigma_max must be above sigma_min=1.0, got 0.5"),
  ],
)
def test_bad_values(make, message):
  with pytest.raises(ValueError, match=message):
    make()
