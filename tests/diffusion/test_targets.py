"""Targets of one or two steps of a teacher, where trajectories have closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_diffusion_samplers import NAMES, best, flow

from jdistill import diffusion
from jdistill.diffusion import schedule

T, MIDDLE, S = np.array([0.8, 0.6, 0.5]), np.array([0.65, 0.5, 0.4]), np.array([0.5, 0.4, 0.3])


@pytest.fixture(autouse=True)
def double():
  with jax.enable_x64(True):
    yield


@pytest.mark.parametrize("name", NAMES)
def test_one_step_to_the_progressive_target_ends_where_two_of_the_teacher_end(name):
  one, x_t = schedule(name), np.random.default_rng(0).normal(size=(3, 2))
  teacher = best(one)
  target = diffusion.progressive_target(one, teacher, x_t, T, MIDDLE, S)
  half = diffusion.ddim_step(one, x_t, teacher(x_t, T), T, MIDDLE)
  want = diffusion.ddim_step(one, half, teacher(half, MIDDLE), MIDDLE, S)
  np.testing.assert_allclose(diffusion.ddim_step(one, x_t, target, T, S), want, rtol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_boot_target_is_the_ddim_step_of_the_signal(name):
  one, rng = schedule(name), np.random.default_rng(0)
  signal, eps = rng.normal(size=(2, 3, 2))
  alpha, sigma = (np.asarray(of(T))[:, None] for of in (one.alpha, one.sigma))
  x_t = alpha * signal + sigma * eps
  want = diffusion.ddim_step(one, x_t, best(one)(x_t, T), T, S)
  alpha, sigma = (np.asarray(of(S))[:, None] for of in (one.alpha, one.sigma))
  found = diffusion.boot_target(one, best(one), signal, eps, T, S)
  np.testing.assert_allclose(alpha * found + sigma * eps, want, rtol=1e-10)
  ratio = np.asarray(diffusion.signal_ratio(one, S, T))
  assert ((ratio > 0) & (ratio < 1)).all()


@pytest.mark.parametrize(("solver", "order"), [("ddim", 2), ("heun", 3)])
def test_the_error_of_one_step_falls_by_its_order(solver, order):
  one, x = schedule("vp_cosine"), np.linspace(-1.0, 1.0, 5)[:, None]
  t, gaps = np.full(5, 0.6), []
  for delta in (0.04, 0.02, 0.01):
    s, eps = t - delta, np.full((5, 1), 0.3)
    signal = (x - np.asarray(one.sigma(0.6)) * eps) / np.asarray(one.alpha(0.6))
    exact = (flow(one, x, 0.6, 0.6 - delta) - np.asarray(one.sigma(0.6 - delta)) * eps) / np.asarray(
      one.alpha(0.6 - delta)
    )
    found = diffusion.boot_target(one, best(one), signal, eps, t, s, solver=solver)
    gaps.append(np.abs(np.asarray(found) - exact).max())
  assert np.all(np.abs(np.log2(np.divide(gaps[:-1], gaps[1:])) - order) < 0.3)


def test_consistency_target_is_the_students_word_at_the_teachers_point():
  one, x_t = schedule("edm"), np.random.default_rng(0).normal(size=(3, 2))
  point = diffusion.heun_step(one, best(one), x_t, T, S)
  found = diffusion.consistency_target(one, best(one), lambda x, t: 2 * x + t[:, None], x_t, T, S)
  np.testing.assert_allclose(found, 2 * point + S[:, None], rtol=1e-12)


def test_targets_have_no_gradient_and_weights_their_formula():
  one, x_t = schedule("rectified_flow"), np.random.default_rng(0).normal(size=(3, 2))
  teacher, eps = best(one), jnp.ones((3, 2))
  for make in (
    lambda x: diffusion.progressive_target(one, teacher, x, T, MIDDLE, S),
    lambda x: diffusion.boot_target(one, teacher, x, eps, T, S),
    lambda x: diffusion.consistency_target(one, teacher, teacher, x, T, S),
  ):
    assert not np.any(jax.grad(lambda x, make=make: jnp.sum(make(x)))(x_t))
  np.testing.assert_allclose(diffusion.truncated_snr_weight(one, T), np.maximum(((1 - T) / T) ** 2, 1), rtol=1e-12)
  with pytest.raises(ValueError, match="solver must be ddim or heun, got 'euler'"):
    diffusion.boot_target(one, teacher, x_t, eps, T, S, solver="euler")
