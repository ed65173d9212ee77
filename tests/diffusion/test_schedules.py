"""Forward processes, kinds of predictions and scalings, beside their formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import diffusion
from jdistill.diffusion import PREDICTIONS, SCHEDULES, convert_prediction, schedule

NAMES = sorted(SCHEDULES)


@pytest.mark.parametrize("name", NAMES)
def test_grids_and_training_times_stay_in_the_range(name):
  one = schedule(name)
  for steps in (1, 2, 7):
    times = np.asarray(one.grid(steps))
    assert times.shape == (steps,) and times[0] == np.float32(one.t_max) and (np.diff(times) < 0).all()
    assert steps == 1 or times[-1] == np.float32(one.t_min)
  drawn = np.asarray(one.sample_t(jax.random.key(0), (2000,)))
  assert drawn.min() >= np.float32(one.t_min) and drawn.max() <= np.float32(one.t_max) and np.std(drawn) > 0
  levels = np.asarray(one.noise_ratio(one.grid(50)))
  assert np.isfinite(levels).all() and (np.diff(levels) < 0).all()
  assert schedule(name) is one


def test_factors_by_their_formulas():
  t = np.linspace(0.01, 0.99, 7)
  with jax.enable_x64(True):
    cosine, linear, flow, edm = (schedule(name) for name in ("vp_cosine", "vp_linear", "rectified_flow", "edm"))
    np.testing.assert_allclose(cosine.alpha(t) ** 2 + cosine.sigma(t) ** 2, 1, rtol=1e-14)
    np.testing.assert_allclose(cosine.alpha(t), np.cos(np.pi * t / 2), rtol=1e-14)
    np.testing.assert_allclose(flow.alpha(t) + flow.sigma(t), 1, rtol=1e-15)
    np.testing.assert_array_equal(edm.alpha(t), 1.0)
    # step i of the discrete process is the time (i + 1) / 1000
    products = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    steps = np.array([0, 1, 499, 999])
    np.testing.assert_allclose(linear.alpha((steps + 1) / 1000), np.sqrt(products[steps]), rtol=1e-9)
    np.testing.assert_allclose(linear.sigma((steps + 1) / 1000), np.sqrt(1 - products[steps]), rtol=1e-9)
    between = np.sqrt(np.sqrt(products[498] * products[499]))
    np.testing.assert_allclose(linear.alpha(499.5 / 1000), between, rtol=1e-9)
  grid = np.asarray(schedule("edm").grid(18))
  want = (80 ** (1 / 7) + np.arange(18) / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
  np.testing.assert_allclose(grid, want, rtol=1e-5)
  logs = np.log(np.asarray(schedule("edm").sample_t(jax.random.key(1), (20_000,))))
  assert abs(logs.mean() + 1.2) < 0.03 and abs(logs.std() - 1.2) < 0.03


@pytest.mark.parametrize("name", NAMES)
def test_conversions_round_trip_and_equal_their_definitions(name):
  with jax.enable_x64(True):
    one, rng = schedule(name), np.random.default_rng(0)
    x0, eps = rng.normal(size=(2, 4, 3))
    t = np.array([0.05, 0.3, 0.6, 0.9])
    alpha, sigma = (np.asarray(of(t))[:, None] for of in (one.alpha, one.sigma))
    x_t = diffusion.add_noise(one, x0, eps, t)
    np.testing.assert_allclose(x_t, alpha * x0 + sigma * eps, rtol=1e-15)
    truth = {"x0": x0, "eps": eps, "score": -eps / sigma}
    if one.kind == diffusion.schedules.VARIANCE_PRESERVING:
      truth["v"] = alpha * eps - sigma * x0
    if one.kind == diffusion.schedules.FLOW:
      truth["flow"] = eps - x0
    for source, value in truth.items():
      for target, want in truth.items():
        found = convert_prediction(one, value, x_t, t, source, target)
        np.testing.assert_allclose(found, want, rtol=1e-12, atol=1e-12)
        guess = rng.normal(size=x0.shape)  # of no pair of data and noise in particular
        back = convert_prediction(one, convert_prediction(one, guess, x_t, t, source, target), x_t, t, target, source)
        np.testing.assert_allclose(back, guess, rtol=1e-12, atol=1e-12)
    for other in set(PREDICTIONS) - set(truth):
      with pytest.raises(ValueError, match=rf"^prediction='{other}': is defined for .*, and schedule '{name}' has"):
        convert_prediction(one, x0, x_t, t, "x0", other)


def test_conversions_in_half_precision_are_computed_in_float32():
  one = schedule("edm")
  x = jnp.full((2, 3), 1.5, jnp.bfloat16)
  assert convert_prediction(one, x, x, jnp.ones(2), "x0", "eps").dtype == jnp.float32
  assert convert_prediction(one, x, x, jnp.ones(2), "eps", "eps").dtype == jnp.float32


def test_scalings_keep_unit_variance():
  with jax.enable_x64(True):
    sigma, data = np.geomspace(0.002, 80, 9), 0.5
    skip, out, inner, noise = diffusion.edm_scalings(sigma, data)
    np.testing.assert_allclose(inner**2 * (sigma**2 + data**2), 1, rtol=1e-12)
    # what F has to give is (x_0 - skip x_t) / out, of unit variance
    np.testing.assert_allclose((((1 - skip) * data) ** 2 + (skip * sigma) ** 2) / out**2, 1, rtol=1e-9)
    np.testing.assert_allclose(noise, np.log(sigma) / 4, rtol=1e-12)
    np.testing.assert_allclose(diffusion.edm_weight(sigma, data) * out**2, 1, rtol=1e-12)
    same = diffusion.consistency_scalings(np.array([0.002]), data, 0.002)
    np.testing.assert_array_equal([same.skip[0], same.out[0]], [1, 0])


@pytest.mark.parametrize("name", NAMES)
def test_preconditioning_sees_the_noise_level(name):
  """With a network of zeros it is the best linear denoiser of data whose standard deviation is 0.5, up to `skip`."""
  with jax.enable_x64(True):
    one = schedule(name)
    t, x_t = np.array([0.2, 0.7]), np.random.default_rng(0).normal(size=(2, 5))
    alpha, sigma = (np.asarray(of(t))[:, None] for of in (one.alpha, one.sigma))
    found = diffusion.preconditioned(lambda x, noise: jnp.zeros_like(x), one, x_t, t, 0.5)
    np.testing.assert_allclose(found, alpha * 0.25 / (alpha**2 * 0.25 + sigma**2) * x_t, rtol=1e-12)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: schedule("linear"), "schedule='linear': unknown; choose one of edm, vp_cosine"),
    (lambda: diffusion.edm(sigma_min=1, sigma_max=0.5), "0 < sigma_min < sigma_max"),
    (lambda: diffusion.edm(rho=0), "rho and std must be positive"),
    (lambda: diffusion.vp_cosine(t_max=1.0), "vp_cosine: needs 0 < t_min < t_max < 1"),
    (lambda: diffusion.rectified_flow(t_min=0.0), "rectified_flow: needs 0 < t_min"),
    (lambda: diffusion.rectified_flow(std=-1), "std must not be negative"),
    (lambda: diffusion.vp_linear(steps=1), "needs two steps"),
    (lambda: diffusion.vp_linear(t_min=2), r"t_min must be in \(0, 1\)"),
    (lambda: schedule("edm").grid(0), "at least one step, got 0"),
    (
      lambda: diffusion.check_prediction(schedule("edm"), "noise"),
      "prediction='noise': unknown; choose one of x0, eps",
    ),
    (lambda: diffusion.edm_scalings(jnp.ones(1), 0.0), "sigma_data must be positive"),
    (lambda: diffusion.add_noise(schedule("edm"), jnp.ones((2, 3)), jnp.ones((2, 1)), jnp.ones(2)), "same shape"),
  ],
)
def test_what_is_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()
