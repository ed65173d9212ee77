"""Reverse steps against the laws of a small chain, by enumeration of all rows in NumPy and float64."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import token_chain as chain
from scipy import linalg

from jdistill.diffusion import discrete
from jdistill.diffusion.discrete import absorb, chain_score, geometric, loglinear, uniform

GRAPHS = {"absorb": absorb(chain.TOKENS), "uniform": uniform(chain.TOKENS)}
NOISE = {"absorb": loglinear(), "uniform": geometric(1e-3, 8.0)}
STEPS = {"euler": discrete.euler_step, "tweedie": discrete.tweedie_step}


def exact(kind, initial=chain.INITIAL, transition=chain.TRANSITION):
  """The score of the chain; rows that cannot occur have some finite one."""
  score = chain_score(GRAPHS[kind], jnp.asarray(initial), jnp.asarray(transition))
  return jax.jit(lambda x, sigma: jnp.nan_to_num(score(x, sigma), nan=1.0))


def sampled_law(kind, sampler, score_fn, times, phi=None, *, denoise=True):
  """The law of a sampler's rows, exactly: products of matrices over all rows, without drawing anything."""
  graph, noise = GRAPHS[kind], NOISE[kind]
  rows = chain.rows(graph.states)
  x, step = jnp.asarray(rows, jnp.int32), STEPS[sampler](graph, noise)

  @jax.jit
  def probs(t, s, phi):
    score = score_fn(x, jnp.broadcast_to(noise.sigma(t), x.shape[:1]))
    return step(x, discrete.scaled_score(score, x, phi), t, s)

  @jax.jit
  def last(t):
    sigma = noise.sigma(t)
    return discrete.denoise_probs(graph, x, score_fn(x, jnp.broadcast_to(sigma, x.shape[:1])), sigma)

  law = np.prod(np.asarray(graph.prior)[rows], axis=1)
  for k in range(len(times) - 1):
    law = law @ chain.product_matrix(np.asarray(probs(times[k], times[k + 1], 1.0 if phi is None else phi[k])))
  return law @ chain.product_matrix(np.asarray(last(times[-1]))) if denoise else law


def distance(law, other):
  return 0.5 * np.abs(law - other).sum()


@pytest.mark.parametrize("kind", GRAPHS)
def test_reverse_rates_undo_the_forward_process(kind, x64):
  """The generator that they make of all rows moves the noisy law backwards: `dp/dsigma = -R p`."""
  graph, q, sigma = GRAPHS[kind], chain.generator(kind), 0.7
  law = chain.noisy_law(kind, sigma).ravel()
  rows = chain.rows(graph.states)
  rates = jax.jit(functools.partial(discrete.reverse_rate, graph))(
    jnp.asarray(rows), exact(kind)(jnp.asarray(rows), jnp.full(len(rows), sigma))
  )
  np.testing.assert_allclose(np.sum(rates, -1), 0, atol=1e-12)
  reverse, forward = np.zeros((len(rows), len(rows))), np.zeros((len(rows), len(rows)))  # [to, from]
  index = {tuple(row): i for i, row in enumerate(rows)}
  for i, row in enumerate(rows):
    for place in range(chain.LENGTH):
      for y in range(graph.states):
        to = index[(*row[:place], y, *row[place + 1 :])]
        reverse[to, i] += rates[i, place, y]
        forward[to, i] += q[y, row[place]]
  np.testing.assert_allclose(reverse @ law, -forward @ law, atol=1e-12)
  assert np.abs(forward @ law).max() > 1e-3


@pytest.mark.parametrize("kind", GRAPHS)
def test_tweedie_is_the_exact_law_of_each_earlier_token(kind, x64):
  """Although tokens are correlated: by enumeration of the joint law of the token then and all tokens now."""
  graph, sigma, dsigma, q = GRAPHS[kind], 1.1, 0.6, chain.generator(kind)
  rows = chain.rows(graph.states)
  score = exact(kind)(jnp.asarray(rows), jnp.full(len(rows), sigma))
  found = jax.jit(functools.partial(discrete.tweedie_probs, graph))(jnp.asarray(rows), score, jnp.float64(dsigma))
  later, whole = linalg.expm(dsigma * q), linalg.expm(sigma * q)
  for place in range(chain.LENGTH):
    then = chain.data_law(graph.states)
    for axis in range(chain.LENGTH):  # all tokens now, but the one at `place`, which has less noise
      kernel = linalg.expm((sigma - dsigma) * q) if axis == place else whole
      then = np.moveaxis(np.tensordot(kernel, then, (1, axis)), 0, axis)
    for i, row in enumerate(rows):
      joint = then[(*row[:place], slice(None), *row[place + 1 :])] * later[row[place]]
      if joint.sum() > 0:
        np.testing.assert_allclose(found[i, place], joint / joint.sum(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", GRAPHS)
def test_tweedie_steps_are_exact_for_independent_tokens(kind, x64):
  """Whatever their number: what is left is the law of the prior, which is not quite that of the noise."""
  initial = np.array([0.6, 0.3, 0.1])
  score_fn = exact(kind, initial, np.tile(initial, (3, 1)))
  data = np.zeros((GRAPHS[kind].states,) * chain.LENGTH)
  for row in chain.rows(chain.TOKENS):
    data[tuple(row)] = np.prod(initial[row])
  short = 2e-3 if kind == "absorb" else 4e-3  # 1 - exp(-sigma(1)) is 0.999, and exp(-8) is 3e-4
  for steps in (1, 3):
    law = sampled_law(kind, "tweedie", score_fn, discrete.time_grid(steps, t_min=1e-3))
    assert distance(law, data.ravel()) < short
  if kind == "uniform":  # of masks, with log-linear noise, an Euler step is the same thing
    assert distance(sampled_law(kind, "euler", score_fn, discrete.time_grid(3, t_min=1e-3)), data.ravel()) > 0.03


@pytest.mark.parametrize("kind", GRAPHS)
@pytest.mark.parametrize("sampler", STEPS)
def test_samplers_converge_at_first_order(kind, sampler, x64):
  """Twice the steps, half the distance to the law of very many, and that is the data's."""
  score_fn, steps = exact(kind), (32, 64, 128)
  laws = [sampled_law(kind, sampler, score_fn, discrete.time_grid(n, t_min=1e-3)) for n in steps]
  data = chain.data_law(GRAPHS[kind].states).ravel()
  gaps = [distance(law, data) for law in laws]
  differences = [distance(a, b) for a, b in itertools.pairwise(laws)]
  assert differences[0] / differences[1] == pytest.approx(2, abs=0.3)
  limit = 2 * laws[2] - laws[1]  # Richardson
  assert distance(limit, data) < 4e-3 < gaps[0]
  assert gaps[0] > gaps[1] > gaps[2]


@pytest.mark.parametrize("kind", GRAPHS)
def test_runs_draw_from_the_laws(kind):
  """The compiled sampler against the exact law of the same sampler, with coefficients; no mask is left."""
  graph, noise, score_fn = GRAPHS[kind], NOISE[kind], exact(kind)
  times, phi, count = discrete.time_grid(3, t_min=1e-2), jnp.array([0.8, 1.3, 0.9]), 40_000
  step = discrete.euler_step(graph, noise)
  run = jax.jit(lambda key: discrete.sample_tokens(key, score_fn, graph, noise, step, times, (count, 3), phi=phi))
  rows = np.asarray(run(jax.random.key(0)))
  assert rows.max() < graph.tokens
  shares = np.bincount(np.ravel_multi_index(rows.T, (graph.states,) * 3), minlength=graph.states**3) / count
  law = sampled_law(kind, "euler", score_fn, times, phi)
  np.testing.assert_allclose(shares, law, atol=4 * 0.5 / np.sqrt(count))
  np.testing.assert_array_equal(rows, run(jax.random.key(0)))
  assert np.any(rows != run(jax.random.key(1)))


def test_collected_scores_are_those_of_the_run():
  graph, noise, score_fn = GRAPHS["absorb"], NOISE["absorb"], exact("absorb")
  times, x = discrete.time_grid(2), jnp.full((4, 3), 3, jnp.int32)
  collect = lambda x, score: (x, score)  # noqa: E731
  step = discrete.tweedie_step(graph, noise)

  @jax.jit
  def run(key):
    last, (tokens, scores) = discrete.run_sampler(key, score_fn, noise, step, times, x, collect=collect)
    second = score_fn(tokens[1], jnp.broadcast_to(noise.sigma(times[1]), 4))
    drawn = discrete.draw(jax.random.fold_in(key, 1), step(tokens[1], second, times[1], times[2]))
    return last, tokens, scores, second, drawn

  last, tokens, scores, second, drawn = run(jax.random.key(0))
  assert scores.shape == (2, 4, 3, 4)
  np.testing.assert_array_equal(tokens[0], x)
  np.testing.assert_allclose(scores[1], second, rtol=1e-5)
  np.testing.assert_array_equal(last, drawn)


def test_long_steps_are_clipped_and_stay_distributions():
  x = jnp.array([[0, 1, 2]], jnp.int32)
  rate = jnp.array([[[-3.0, 1, 2], [0.5, -0.5, 0], [0, 0, 0]]])
  expected = [[[0, 1 / 3, 2 / 3], [0.5, 0.5, 0], [0, 0, 1]]]
  np.testing.assert_allclose(jax.jit(discrete.euler_probs)(x, rate, jnp.float32(1)), expected, atol=1e-6)
  graph, masked = GRAPHS["absorb"], jnp.array([[3]], jnp.int32)
  wild = jnp.array([[[5.0, 0, 15, 1]]])  # more than all of the mask's probability
  tweedie = jax.jit(discrete.tweedie_probs, static_argnums=0)
  denoise = jax.jit(discrete.denoise_probs, static_argnums=0)
  probs = tweedie(graph, masked, wild, jnp.float32(1.0))
  np.testing.assert_allclose(probs, [[[0.25, 0, 0.75, 0]]], atol=1e-6)
  silent = jnp.array([[[0.0, 0, 0, 1]]])
  np.testing.assert_allclose(denoise(graph, masked, silent, jnp.float32(1.0)), [[[1 / 3] * 3 + [0]]])
  assert np.isnan(tweedie(graph, masked, wild * jnp.nan, jnp.float32(1.0))).any()


def test_draws_have_their_probabilities_and_never_what_has_none():
  probs = jnp.array([0.0, 0.5, 0.0, 0.2, 0.3, 0.0])
  drawn = np.asarray(jax.jit(discrete.draw)(jax.random.key(0), jnp.broadcast_to(7 * probs, (100_000, 6))))
  np.testing.assert_allclose(np.bincount(drawn, minlength=6) / 1e5, probs, atol=0.007)
  assert not np.isin(drawn, [0, 2, 5]).any()
  half = jax.jit(discrete.draw)(jax.random.key(0), jnp.broadcast_to(probs, (1000, 6)).astype(jnp.bfloat16))
  assert half.dtype == jnp.int32 and not np.isin(half, [0, 2, 5]).any()


def test_rare_states_are_drawn_as_often_as_they_should_be():
  """2e-5 in float32 over 1,000 states, where Gumbel noise of low precision falls short."""
  probs = jnp.concatenate([jnp.ones(1), jnp.full(999, 2e-5)])
  drawn = jax.jit(discrete.draw)(jax.random.key(3), jnp.broadcast_to(probs, (5000, 1000)))
  expected = 5000 * 999 * 2e-5 / (1 + 999 * 2e-5)
  assert abs(np.sum(np.asarray(drawn) > 0) - expected) < 4 * np.sqrt(expected)


def test_coefficients_leave_the_current_token():
  score, x = jnp.array([[[1.0, 4, 9], [0.25, 1, 16]]]), jnp.array([[0, 1]], jnp.int32)
  np.testing.assert_allclose(discrete.scaled_score(score, x, 0.5), [[[1, 2, 4.5], [0.125, 1, 8]]])
  np.testing.assert_allclose(discrete.scaled_score(score, x, 0.5, "log_score"), [[[1, 2, 3], [0.5, 1, 4]]], rtol=1e-6)
  with pytest.raises(ValueError, match="apply_to must be one of score, log_score, got 'logits'"):
    discrete.scaled_score(score, x, 0.5, "logits")


@pytest.mark.parametrize(
  ("times", "message"),
  [
    ([1.0, 0.5, 0.5], "times must fall, got 0.5 and then 0.5 at step 1"),
    ([0.5, 0.7], "times must fall, got 0.5 and then 0.7 at step 0"),
    ([1.2, 0.5], "times must lie from 0.0 to 1.0, got 0.5 to 1.2"),
    ([1.0, -0.1], "times must lie from 0.0 to 1.0, got -0.1 to 1"),
    ([1.0], "at least two, got shape"),
    ([1.0, float("nan")], "times must"),
  ],
)
def test_times_are_checked(times, message):
  graph, noise = GRAPHS["absorb"], NOISE["absorb"]
  with pytest.raises(ValueError, match=message):
    discrete.run_sampler(
      jax.random.key(0), exact("absorb"), noise, discrete.euler_step(graph, noise), jnp.array(times), jnp.zeros((1, 3))
    )


def test_other_bad_values():
  graph, noise, x = GRAPHS["absorb"], NOISE["absorb"], jnp.full((2, 3), 3, jnp.int32)
  step = discrete.euler_step(graph, noise)
  with pytest.raises(ValueError, match="time_grid: steps must be at least 1, got 0"):
    discrete.time_grid(0)
  with pytest.raises(ValueError, match=r"0 <= t_min < t_max <= 1, got t_min=0.5 and t_max=0.5"):
    discrete.time_grid(2, t_max=0.5, t_min=0.5)
  with pytest.raises(ValueError, match=r"one coefficient for each of 4 steps, got \(3,\)"):
    discrete.run_sampler(jax.random.key(0), None, noise, step, discrete.time_grid(4), x, phi=jnp.ones(3))
  for wrong, message in [((2, 3, 3), "the mask is a state too"), ((2, 4, 4), r"scores of tokens \(2, 3\) must be")]:
    with pytest.raises(ValueError, match=message):
      discrete.run_sampler(
        jax.random.key(0), lambda x, sigma, wrong=wrong: jnp.ones(wrong), noise, step, discrete.time_grid(1), x
      )
