"""The pure parts of LSD and LSD+ against NumPy and least squares."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.diffusion import discrete
from jdistill.diffusion.discrete import absorb, loglinear, uniform

RNG = np.random.default_rng(0)
S, TARGET = RNG.uniform(0, 3, (4, 5, 6)), RNG.uniform(0, 3, (4, 5, 6))
WHERE = RNG.uniform(size=S.shape) < 0.6


def test_the_loss_is_a_mean_square_and_least_at_the_closed_form(x64):
  loss = jax.jit(discrete.lsd_loss)
  phi, s, target = jnp.float64(0.7), jnp.asarray(S), jnp.asarray(TARGET)
  np.testing.assert_allclose(loss(phi, s, target), np.mean((0.7 * S - TARGET) ** 2), rtol=1e-12)
  broken = [jnp.asarray(np.where(WHERE, x, np.nan)) for x in (S, TARGET)]
  expected = np.mean(((0.7 * S - TARGET) ** 2)[WHERE])
  np.testing.assert_allclose(loss(phi, *broken, where=jnp.asarray(WHERE)), expected, rtol=1e-12)
  best = jax.jit(discrete.lsd_phi)(*broken, where=jnp.asarray(WHERE))
  solution = np.linalg.lstsq(S[WHERE][:, None], TARGET[WHERE], rcond=None)[0][0]
  np.testing.assert_allclose(best, solution, rtol=1e-12)
  gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
  np.testing.assert_allclose(gradient(best, *broken, where=jnp.asarray(WHERE))[0], 0, atol=1e-12)
  moved, *constants = gradient(phi, s, target)
  np.testing.assert_allclose(moved, np.mean(2 * S * (0.7 * S - TARGET)), rtol=1e-12)
  assert not any(np.any(one) for one in constants)  # samples and networks get none
  np.testing.assert_allclose(discrete.lsd_plus_loss(phi, s, target), loss(phi, s, target))


def test_relative_losses_and_empty_sums():
  sums = discrete.least_squares(jnp.float32(S).astype(jnp.bfloat16), jnp.float32(TARGET))
  assert sums.square.dtype == jnp.float32
  expected = np.sum((0.5 * S - TARGET) ** 2) / np.sum(TARGET**2)
  np.testing.assert_allclose(discrete.fit_loss(0.5, sums, relative=True), expected, rtol=3e-3)  # bfloat16
  none = discrete.least_squares(jnp.float32(S), jnp.float32(TARGET), jnp.zeros(S.shape, bool))
  assert float(discrete.fitted(none)) == 1 and float(discrete.fit_loss(0.5, none)) == 0
  assert float(discrete.fit_loss(0.5, none, relative=True)) == 0


def test_step_sizes_are_positive_and_span_the_range():
  kappa = discrete.step_sizes(jnp.array([0.0, 2.0, -5.0, 1.0]), t_min=0.1)
  expected = np.exp([0, 2, -5, 1]) / np.exp([0, 2, -5, 1]).sum() * 0.9
  np.testing.assert_allclose(kappa, expected, rtol=1e-5)
  times = discrete.step_times(kappa)
  np.testing.assert_allclose(times, 1 - np.concatenate([[0], np.cumsum(expected)]), rtol=1e-5)
  np.testing.assert_allclose(discrete.step_times(discrete.step_sizes(jnp.zeros(8))), discrete.time_grid(8), atol=1e-6)
  with pytest.raises(ValueError, match="step sizes must be above 0, got 0 for step 1"):
    discrete.step_times(jnp.array([0.5, 0.0, 0.4]))


def test_perturbed_rows_differ_in_so_many_places():
  x, counts = jnp.asarray(RNG.integers(0, 5, (50, 10)), jnp.int32), {0.0: 0, 0.05: 0, 0.3: 3, 0.95: 9}
  perturb = lambda key: [discrete.hamming_perturb(key, x, share, 5) for share in counts]  # noqa: E731
  for near, count in zip(jax.jit(perturb)(jax.random.key(0)), counts.values(), strict=True):
    np.testing.assert_array_equal(np.sum(near != x, axis=1), count)
    assert near.min() >= 0 and near.max() < 5 and near.dtype == jnp.int32


def test_perturbed_tokens_are_any_other_ones_equally_often():
  masks = jnp.full((6000, 2), 4, jnp.int32)
  tokens = jnp.full((6000, 2), 2, jnp.int32)
  for x, others in ((masks, [0, 1, 2, 3]), (tokens, [0, 1, 3])):
    near = np.asarray(jax.jit(lambda x: discrete.hamming_perturb(jax.random.key(1), x, 0.5, 4))(x))
    changed = near[near != np.asarray(x)]
    assert len(changed) == 6000
    shares = np.bincount(changed, minlength=4) / 6000
    np.testing.assert_allclose(shares[others], 1 / len(others), atol=0.025)
    np.testing.assert_allclose(np.mean(near[:, 0] != np.asarray(x)[:, 0]), 0.5, atol=0.03)
  for share in (-0.1, 1.0):
    with pytest.raises(ValueError, match=r"share must be in \[0, 1\)"):
      discrete.hamming_perturb(jax.random.key(0), masks, share, 4)
  with pytest.raises(ValueError, match="tokens must be at least 2"):
    discrete.hamming_perturb(jax.random.key(0), masks, 0.1, 1)


def table_score(states):
  """Scores that depend on the token alone and on the noise."""
  table = jnp.asarray(RNG.uniform(0.2, 2, (states, states)), jnp.float32)

  def score_fn(x, sigma):
    score = table[x] / jnp.expm1(sigma)[:, None, None]
    return jnp.where(jax.nn.one_hot(x, states, dtype=bool), 1, score)

  return score_fn


@pytest.mark.parametrize(
  ("make", "rows", "target"),
  [(absorb, "active", "interval_sum"), (uniform, "active", "interval_sum"), (uniform, "all", "teacher_step")],
)
def test_a_sweep_is_two_runs_side_by_side(make, rows, target):
  """Against the two samplers run apart with all their scores kept."""
  graph, noise, key = make(4), loglinear(), jax.random.key(0)
  score_fn, steps, many = table_score(graph.states), 3, 12
  step = discrete.euler_step(graph, noise)
  teacher_times = discrete.time_grid(many, t_min=0.01)
  kappa = jnp.array([0.5, 0.3, 0.19])
  student_times = discrete.step_times(kappa)
  phi = jnp.array([0.9, 1.2, 0.7])
  x = graph.sample_prior(jax.random.key(1), (16, 5))
  near = discrete.hamming_perturb(jax.random.key(2), x, 0.4, 4)
  given = (score_fn, graph, noise, step, teacher_times, student_times, phi, x, near)
  found = jax.jit(lambda key: discrete.lsd_sweep(key, *given, rows=rows, target=target))(key)
  collect = lambda x, score: (x, score)  # noqa: E731

  @jax.jit
  def apart(key):
    key_teacher, key_student = jax.random.split(key)
    teacher = discrete.run_sampler(key_teacher, score_fn, noise, step, teacher_times, x, collect=collect)
    return teacher, discrete.run_sampler(
      key_student, score_fn, noise, step, student_times, near, phi=phi, collect=collect
    )

  (teacher, (x_star, s_star)), (student, (x_k, s)) = apart(key)
  np.testing.assert_array_equal(found.teacher, teacher)
  np.testing.assert_array_equal(found.student, student)
  x_star, s_star, x_k, s = (
    np.asarray(one, np.int32 if one.ndim == 3 else np.float64) for one in (x_star, s_star, x_k, s)
  )
  dt = 0.99 / many
  for k in range(steps):
    counted = np.arange(graph.states) != x_k[k][..., None]
    if rows == "active" and graph.mask is not None:
      counted &= ((x_k[k] == 4) & (x_star[4 * k] == 4))[..., None]
    elif rows == "active":
      counted &= np.arange(graph.states) != x_star[4 * k][..., None]
    terms = s_star[4 * k : 4 * k + 4]
    if rows == "active":  # what the teacher can do at the time
      then = x_star[4 * k : 4 * k + 4, :, :, None]
      terms = np.where((then == graph.mask) if graph.mask is not None else (np.arange(4) != then), terms, 0)
    terms = terms[:1] if target == "teacher_step" else terms
    own, goal, total = s[k][counted], s_star[4 * k][counted], dt * terms.sum(0)[counted]
    sums = jax.tree.map(lambda one, k=k: one[k], found.scores)
    np.testing.assert_allclose(sums, [own @ own, own @ goal, goal @ goal, len(own)], rtol=1e-4)
    sums = jax.tree.map(lambda one, k=k: one[k], found.transitions)
    np.testing.assert_allclose(sums, [own @ own, own @ total, total @ total, len(own)], rtol=1e-4)


def test_a_solved_sweep_uses_the_closed_form_of_its_own_samples():
  graph, noise = uniform(4), loglinear()
  times = discrete.time_grid(8, t_min=0.01)
  x = graph.sample_prior(jax.random.key(1), (16, 5))
  given = (table_score(4), graph, noise, discrete.tweedie_step(graph, noise), times, times[::4])
  solved = jax.jit(lambda phi: discrete.lsd_sweep(jax.random.key(0), *given, phi, x, x, solve=True))(jnp.ones(2))
  np.testing.assert_allclose(solved.phi, solved.scores.cross / solved.scores.square, rtol=1e-6)
  np.testing.assert_allclose(solved.phi[0], 1, rtol=1e-6)  # both see the same start
  assert abs(float(solved.phi[1]) - 1) > 1e-3


def test_logs_are_compared_where_logs_are_scaled():
  graph, noise = uniform(4), loglinear()
  times, score_fn = discrete.time_grid(2, t_min=0.5), table_score(4)
  x = graph.sample_prior(jax.random.key(1), (3, 5))
  given = (score_fn, graph, noise, discrete.euler_step(graph, noise), times, times[::2], jnp.ones(1), x, x)
  found = jax.jit(lambda key: discrete.lsd_sweep(key, *given, apply_to="log_score"))(jax.random.key(0))
  logs = np.log(np.asarray(score_fn(x, jnp.broadcast_to(noise.sigma(times[0]), 3)), np.float64))
  np.testing.assert_allclose(found.scores.square[0], np.sum(logs**2), rtol=1e-5)  # the current token's log is 0


@pytest.mark.parametrize(
  ("steps", "many", "options", "message"),
  [
    (3, 8, {}, "steps=3: must divide the teacher's 8"),
    (9, 8, {}, "steps=9: must be from 1 to the teacher's 8"),
    (2, 8, {"rows": "masked"}, "rows must be one of all, active, got 'masked'"),
    (2, 8, {"target": "sum"}, "target must be one of teacher_step, interval_sum, got 'sum'"),
    (2, 8, {"apply_to": "log"}, "apply_to must be one of score, log_score, got 'log'"),
  ],
)
def test_bad_sweeps(steps, many, options, message):
  graph, noise = absorb(3), loglinear()
  x = jnp.full((1, 2), 3, jnp.int32)
  given = (table_score(4), graph, noise, discrete.euler_step(graph, noise))
  times = (discrete.time_grid(many), discrete.time_grid(steps))
  with pytest.raises(ValueError, match=message):
    discrete.lsd_sweep(jax.random.key(0), *given, *times, jnp.ones(steps), x, x, **options)
  with pytest.raises(ValueError, match="phi has 1 coefficients for 2 steps"):
    discrete.lsd_sweep(jax.random.key(0), *given, discrete.time_grid(4), discrete.time_grid(2), jnp.ones(1), x, x)
  with pytest.raises(ValueError, match="shapes must be equal"):
    discrete.lsd_loss(1.0, jnp.ones((2, 3, 4)), jnp.ones((2, 3, 3)))
