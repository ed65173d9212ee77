"""LSD and LSD+ on a chain of tokens whose score is exact, so that few-step errors are known without sampling."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.base import Batch, UserError
from jdistill.diffusion import discrete
from jdistill.diffusion.discrete import absorb, chain_score, loglinear, uniform
from jdistill.methods.diffusion.lsd import lsd

LENGTH, TOKENS = 3, 3
RNG = np.random.default_rng(0)
INITIAL, TRANSITION = RNG.dirichlet(np.ones(TOKENS)), RNG.dirichlet(np.full(TOKENS, 0.4), TOKENS)
GRAPH, NOISE = absorb(TOKENS), loglinear()
EXACT = chain_score(GRAPH, jnp.asarray(INITIAL, jnp.float32), jnp.asarray(TRANSITION, jnp.float32))
T_MIN = 1e-3


def score_fn(x, sigma):
  return jnp.nan_to_num(EXACT(x, sigma), nan=1.0)


def batch(size=512):
  zeros = jnp.zeros(size, jnp.int32)
  return Batch(jnp.zeros((size, LENGTH), jnp.int32), zeros, zeros)


def build(**options):
  return lsd(
    score_fn, GRAPH, NOISE, **({"sampler_steps": 4, "teacher_steps": 32, "t_min": T_MIN, "rows": "active"} | options)
  )


def few_step_error(times, phi):
  """Total variation between the data and the law of the sampler, by products of matrices over all rows."""
  rows = np.array(list(itertools.product(range(TOKENS + 1), repeat=LENGTH)))
  x, step = jnp.asarray(rows, jnp.int32), discrete.euler_step(GRAPH, NOISE)

  @jax.jit
  def probs(t, s, phi):
    score = score_fn(x, jnp.broadcast_to(NOISE.sigma(t), len(rows)))
    return step(x, discrete.scaled_score(score, x, phi), t, s), discrete.denoise_probs(GRAPH, x, score, NOISE.sigma(t))

  def matrix(probs):
    return np.stack([np.prod(np.asarray(probs)[:, range(LENGTH), to], axis=1) for to in rows], axis=1)

  law = np.all(rows == TOKENS, axis=1).astype(float)
  for k in range(len(times) - 1):
    law = law @ matrix(probs(times[k], times[k + 1], phi[k])[0])
  law = law @ matrix(probs(times[-1], 0.0, 1.0)[1])
  data = [
    0.0 if TOKENS in row else INITIAL[row[0]] * np.prod([TRANSITION[a, b] for a, b in itertools.pairwise(row)])
    for row in rows
  ]
  return 0.5 * np.abs(law - data).sum()


def train(method, steps, key=0, *, same=False, size=512):
  state = method.init(jax.random.key(9), batch(size))

  @jax.jit
  def run(state):
    def body(state, i):
      return method.step(jax.random.fold_in(jax.random.key(key), 0 if same else i), state, batch(size))

    return jax.lax.scan(body, state, jnp.arange(steps))

  return run(state)


def test_gradients_find_the_closed_form():
  """With the same noise in all steps: after training, each coefficient solves the problem that it makes itself."""
  method = build(teacher_steps=16, phi_lr=0.3, relative=True)
  state, _ = train(method, 40, same=True, size=128)
  phi = state.roles["phi"].params
  key_prior, key_start, key_run = jax.random.split(jax.random.fold_in(jax.random.key(0), 0), 3)
  x = GRAPH.sample_prior(key_prior, (128, LENGTH))
  near = discrete.hamming_perturb(key_start, x, 0.05, TOKENS)
  times = discrete.time_grid(16, t_min=T_MIN)
  given = (score_fn, GRAPH, NOISE, discrete.euler_step(GRAPH, NOISE), times, times[::4])
  solved = jax.jit(lambda: discrete.lsd_sweep(key_run, *given, jnp.ones(4), x, near, rows="active", solve=True))()
  np.testing.assert_allclose(phi, solved.phi, rtol=1e-4)
  np.testing.assert_allclose(phi, solved.scores.cross / solved.scores.square, rtol=1e-4)
  assert np.abs(np.asarray(phi)[1:] - 1).min() > 0.05


def test_few_step_error_falls():
  """Exactly computed; the first coefficient stays 1, since both see the same noise."""
  method = build(solver="closed_form", memory=0.9)
  learned = method.result(train(method, 10)[0])
  assert learned.phi.shape == (4,) and learned.times.shape == (5,)
  before, after = few_step_error(learned.times, np.ones(4)), few_step_error(learned.times, learned.phi)
  assert after < 0.9 * before
  np.testing.assert_allclose(learned.phi[0], 1, atol=1e-3)


def test_learned_step_sizes_follow_their_gradient_and_span_the_range():
  target = "interval_sum"
  method = build(learn_sizes=True, teacher_steps=16, size_target=target, sizes_lr=0.5, phi_lr=0.1, relative=True)
  state, metrics = train(method, 1, size=128)
  learned = method.result(state)
  assert learned.times[0] == 1 and float(learned.times[-1]) == pytest.approx(T_MIN, abs=1e-6)
  assert np.all(np.diff(learned.times) < 0) and np.ptp(np.diff(learned.times)) > 1e-3
  assert set(metrics) == {"loss/phi", "loss/excess", "loss/sizes", "phi/least", "phi/greatest"}
  key_prior, key_start, key_run = jax.random.split(jax.random.fold_in(jax.random.key(0), 0), 3)
  x = GRAPH.sample_prior(key_prior, (128, LENGTH))
  near = discrete.hamming_perturb(key_start, x, 0.05, TOKENS)
  times = discrete.time_grid(16, t_min=T_MIN)
  given = (
    score_fn,
    GRAPH,
    NOISE,
    discrete.euler_step(GRAPH, NOISE),
    times,
    discrete.step_times(jnp.full(4, 0.999 / 4)),
  )
  sums = jax.jit(
    lambda: discrete.lsd_sweep(key_run, *given, jnp.ones(4), x, near, rows="active", target=target)
  )().transitions
  square, cross, scale = (np.asarray(one, np.float64) for one in (sums.square, sums.cross, sums.target))
  kappa = np.full(4, 0.999 / 4)
  slope = (2 * kappa * square - 2 * cross) / scale  # of each loss by its step size
  softmax = kappa / 0.999
  expected = -0.5 * 0.999 * softmax * (slope - softmax @ slope)
  np.testing.assert_allclose(state.roles["sizes"].params, expected, rtol=2e-3, atol=1e-4)
  np.testing.assert_allclose(
    metrics["loss/sizes"][0], np.mean((kappa**2 * square - 2 * kappa * cross) / scale + 1), rtol=1e-3
  )


def test_other_graphs_logs_and_optimisers_learn():
  graph = uniform(TOKENS)
  score = chain_score(graph, jnp.asarray(INITIAL, jnp.float32), jnp.asarray(TRANSITION, jnp.float32))
  options = {"sampler_steps": 2, "teacher_steps": 4, "sampler": "tweedie", "apply_to": "log_score", "t_min": 0.01}
  method = lsd(score, graph, NOISE, optimizer="adam", phi_lr=0.02, **options)
  state, metrics = train(method, 30, size=128)
  losses = np.asarray(metrics["loss/phi"])
  assert np.isfinite(losses).all() and losses[-5:].mean() < losses[:5].mean()
  assert metrics["phi/least"][0] < 1 and state.roles["phi"].params.dtype == jnp.float32


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"sampler_steps": 5}, r"method.sampler_steps=5: must divide the teacher's 32"),
    ({"sampler_steps": 64}, r"method.sampler_steps=64: must be from 1 to the teacher's 32"),
    ({"radius": 1.0}, "method.radius=1.0: must be at most 0.999"),
    ({"radius": -0.1}, "method.radius=-0.1: must be at least 0"),
    ({"apply_to": "logits"}, "method.apply_to='logits': unknown"),
    ({"t_min": 0.0}, "method.t_min=0.0: must be above 0"),
  ],
)
def test_bad_options(options, message):
  with pytest.raises(UserError, match=message):
    build(**options)


@pytest.mark.parametrize(
  ("wrong", "message"),
  [
    (lambda x, sigma: jnp.log(score_fn(x, sigma)), "take the exponential of log-scores"),
    (lambda x, sigma: jnp.nan * score_fn(x, sigma), "not finite; the teacher's parameters may hold NaN"),
    (lambda x, sigma: score_fn(x, sigma)[..., :-1], r"must be \(4, 3, 4\), got \(4, 3, 3\); the mask is a state too"),
    (lambda x, sigma: score_fn(x, sigma)[:, :-1], r"scores of tokens \(4, 3\) must be \(4, 3, 4\), got \(4, 2, 4\)"),
  ],
)
def test_bad_scores(wrong, message):
  with pytest.raises(ValueError, match=message):
    lsd(wrong, GRAPH, NOISE, sampler_steps=2, teacher_steps=4).init(jax.random.key(0), batch(4))
