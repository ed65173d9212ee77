"""Samplers where everything is known: Gaussian data, whose best denoiser and whose trajectories have closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import diffusion, losses
from jdistill.diffusion import SCHEDULES, schedule

MEAN, STD = 0.7, 0.4
NAMES = sorted(SCHEDULES)


def best(one, mean=MEAN, std=STD):
  """The denoiser of data from `N(mean, std^2)`, elementwise."""

  def denoise(x_t, t):
    alpha, sigma = (diffusion.per_example(of(t), x_t) for of in (one.alpha, one.sigma))
    return mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x_t - alpha * mean)

  return denoise


def flow(one, x, t, s):
  """The exact point at `s` of the trajectory through `x` at `t`: its quantile stays the same."""
  spread = [np.sqrt(np.asarray(one.alpha(when) ** 2 * STD**2 + one.sigma(when) ** 2)) for when in (t, s)]
  return np.asarray(one.alpha(s)) * MEAN + spread[1] / spread[0] * (x - np.asarray(one.alpha(t)) * MEAN)


def errors(name, solver, counts):
  """The largest distance from the exact end of trajectories, for these numbers of steps."""
  one = diffusion.edm(sigma_min=0.01, sigma_max=10.0) if name == "edm" else schedule(name)
  x = np.asarray(diffusion.prior(one, jnp.linspace(-2.0, 2.0, 9)[:, None]))
  end = flow(one, x, one.t_max, one.t_min)
  # the last step of a sampler is the prediction, which is compared with that of the exact point
  want = np.asarray(best(one)(end, jnp.full(9, one.t_min)))
  return [np.abs(np.asarray(diffusion.ode_sample(one, best(one), x, n, solver=solver)) - want).max() for n in counts]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("solver", "order"), [("ddim", 1), ("euler", 1), ("heun", 2)])
def test_errors_fall_with_the_order_of_the_solver(name, solver, order):
  with jax.enable_x64(True):
    few, more, many = errors(name, solver, (64, 128, 256))
    assert many < more < few
    rate = np.log2(more / many)
    assert order - 0.25 < rate < order + 0.35, rate


@pytest.mark.parametrize("name", ["edm", "rectified_flow"])
def test_ddim_is_eulers_step_where_time_is_the_noise_level_or_a_straight_line(name):
  with jax.enable_x64(True):
    one, x = schedule(name), np.random.default_rng(0).normal(size=(3, 2))
    x0 = best(one)(x, jnp.full(3, 0.6))
    for s in (0.5, 0.1):
      np.testing.assert_allclose(
        diffusion.ddim_step(one, x, x0, 0.6, s), diffusion.euler_step(one, x, x0, 0.6, s), rtol=1e-12
      )


def test_heun_is_edms_algorithm():
  with jax.enable_x64(True):
    one, x = schedule("edm"), np.random.default_rng(0).normal(size=(3, 2))
    denoise = best(one)
    slope = (x - denoise(x, jnp.full(3, 2.0))) / 2.0
    euler = x + (1.5 - 2.0) * slope
    want = x + (1.5 - 2.0) * (slope + (euler - denoise(euler, jnp.full(3, 1.5))) / 1.5) / 2
    np.testing.assert_allclose(diffusion.heun_step(one, denoise, x, 2.0, 1.5), want, rtol=1e-12)
    rows = diffusion.heun_step(one, denoise, x, np.array([2.0, 3.0, 2.0]), np.array([1.5, 1.0, 1.5]))
    np.testing.assert_allclose(rows[::2], want[::2], rtol=1e-12)


def test_samples_have_the_law_of_the_data_and_cost_what_is_told():
  one, calls = schedule("vp_cosine"), []
  x = diffusion.prior(one, jax.random.normal(jax.random.key(0), (4000, 1)))
  samples = np.asarray(diffusion.ode_sample(one, best(one), x, 40, solver="heun"))
  assert abs(samples.mean() - MEAN) < 0.03 and abs(samples.std() - STD) < 0.02

  def counted(x, t):
    calls.append(t)
    return best(one)(x, t)

  with jax.disable_jit():
    for solver in diffusion.SOLVERS:
      calls.clear()
      diffusion.ode_sample(one, counted, x[:2], 3, solver=solver)
      assert len(calls) == diffusion.evaluations(3, solver)
  single = diffusion.ode_sample(one, best(one), x, 1)
  np.testing.assert_array_equal(single, best(one)(x, jnp.full(4000, one.t_max, jnp.float32)))


def drawing(x):
  return lambda number: jax.random.normal(jax.random.fold_in(jax.random.key(3), number), x.shape)


def test_several_steps_with_fresh_noise():
  """A generator that gives the time that it is asked at: what is added to it is the noise of the next time."""
  one, times, x = schedule("edm"), jnp.array([80.0, 10.0, 1.0]), jnp.full((5, 2), 80.0)
  seen = diffusion.backward_simulate(one, lambda x, t: 0 * x + t[:, None], drawing(x), x, times, 2)
  np.testing.assert_allclose(seen, 10.0 + 1.0 * drawing(x)(1), rtol=1e-6)
  made = diffusion.renoise_sample(one, lambda x, t: 0 * x + t[:, None], drawing(x), x, times)
  np.testing.assert_array_equal(made, 1.0)
  first = diffusion.backward_simulate(one, lambda x, t: jnp.nan * x, drawing(x), x, times, 0)
  np.testing.assert_array_equal(first, x)  # no step is taken before the first
  single = diffusion.renoise_sample(one, lambda x, t: x + t[:, None], drawing(x), x, times[:1])
  np.testing.assert_array_equal(single, 160.0)


def test_no_gradient_passes_through_what_was_simulated():
  one, times, x = schedule("edm"), jnp.array([80.0, 10.0, 1.0]), jnp.ones((4, 2))

  def total(scale, index):
    generate = lambda x, t: scale * x  # noqa: E731
    return jnp.sum(generate(diffusion.backward_simulate(one, generate, drawing(x), x, times, index), times[index]))

  for index in (0, 2):
    seen = diffusion.backward_simulate(one, lambda x, t: 0.5 * x, drawing(x), x, times, index)
    np.testing.assert_allclose(jax.jit(jax.grad(total))(0.5, index), jnp.sum(seen), rtol=1e-6)


def test_guidance_is_linear_in_its_scale():
  one, zero = (lambda x, t: jnp.ones_like(x)), (lambda x, t: jnp.zeros_like(x))
  for scale in (0.0, 1.0, 2.5):
    np.testing.assert_allclose(diffusion.guided(one, zero, scale)(jnp.ones((2, 2)), jnp.ones(2)), scale)
  with pytest.raises(ValueError, match="scale must not be negative"):
    diffusion.guided(one, zero, -1.0)
  with pytest.raises(ValueError, match="solver must be one of ddim, heun, euler"):
    diffusion.ode_sample(schedule("edm"), one, jnp.ones((1, 1)), 3, solver="rk4")


@pytest.mark.parametrize("name", NAMES)
def test_score_distillation_is_the_gradient_of_the_divergence_of_gaussians(name):
  """The mean direction of samples of `N(m, s^2)` is that of the KL divergence between noisy Gaussians."""
  one, t, own = schedule(name), 0.4, {"mean": -0.2, "std": 0.9}
  with jax.enable_x64(True):
    # quadrature instead of samples
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    x = own["mean"] + own["std"] * nodes[:, None]
    alpha, sigma = float(one.alpha(t)), float(one.sigma(t))

    def direction(eps):
      x_t, rows = alpha * x + sigma * eps, jnp.full(60, t)
      return losses.score_distillation_grad(x, best(one)(x_t, rows), best(one, **own)(x_t, rows), normalize="none")

    mean = sum(w * np.asarray(direction(eps)) for w, eps in zip(weights, nodes, strict=True))[:, 0]
    found = [np.sum(weights * mean), np.sum(weights * mean * nodes)]  # in m and in s, as x = m + s node

    def divergence(m, s):
      data, model = alpha**2 * STD**2 + sigma**2, alpha**2 * s**2 + sigma**2
      return 0.5 * (model / data + (alpha * (m - MEAN)) ** 2 / data - 1 - jnp.log(model / data))

    exact = np.array(jax.grad(divergence, argnums=(0, 1))(own["mean"], own["std"]))
    # x_0 = (x_t + sigma^2 score) / alpha, and the divergence is moved by alpha dx
    np.testing.assert_allclose(found, exact * sigma**2 / alpha**2, rtol=1e-6)


def test_score_distillation_rests_where_both_agree_and_keeps_its_rule_for_what_is_not_finite():
  x = jnp.array([[1.0, 2.0], [3.0, 3.0], [0.0, 1.0]])
  np.testing.assert_array_equal(losses.score_distillation_grad(x, x + 1, x + 1), 0)
  found = np.asarray(losses.score_distillation_grad(x, x, x + jnp.array([[0.0, 1.0]])))
  np.testing.assert_array_equal(found[:, 0], 0)  # 0 / 0
  np.testing.assert_array_equal(found[:, 1], np.finfo(np.float32).max)  # 1 / 0


def test_loss_from_grad_has_the_wanted_gradient():
  rng = np.random.default_rng(0)
  x, grad = (jnp.float32(rng.normal(size=(3, 4)) * scale) for scale in (1e4, 1e-3))
  np.testing.assert_allclose(jax.grad(losses.loss_from_grad)(x, grad), grad / 12, rtol=1e-6)
  where = jnp.array([True, False, True])
  broken = x.at[1].set(jnp.nan)
  found = jax.grad(lambda x: losses.loss_from_grad(x, grad, where=where))(broken)
  np.testing.assert_allclose(found[::2], grad[::2] / 8, rtol=1e-6)
  np.testing.assert_array_equal(found[1], 0)
