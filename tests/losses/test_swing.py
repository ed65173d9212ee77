"""Swing distillation: temperatures, noisy targets and their limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.losses import noisy_soft_targets, swing_kd_loss, swing_temperature

RNG = np.random.default_rng(0)
S, T = RNG.normal(size=(2, 3, 4)), RNG.normal(size=(2, 3, 4))
RHO = np.array([[0.0, 0.5, 1.0], [1.0, 0.0, 0.25]])
KEY = jax.random.key(0)


def log_softmax(z):
  z = z - z.max(-1, keepdims=True)
  return z - np.log(np.exp(z).sum(-1, keepdims=True))


def test_temperature_is_linear_in_rho():
  got = swing_temperature(jnp.array([0.0, 0.5, 1.0]), tau_lo=2.0, tau_hi=12.0)
  np.testing.assert_allclose(got, [2.0, 7.0, 12.0])


def test_without_noise_it_is_kl_at_the_positions_temperatures(x64):
  tau = (1 + 9 * RHO)[..., None]
  p, q = log_softmax(S / tau), log_softmax(T / tau)
  want = (np.exp(q) * (q - p)).sum(-1)
  got = swing_kd_loss(jnp.asarray(S), jnp.asarray(T), jnp.asarray(RHO), KEY, epsilon=np.inf)
  np.testing.assert_allclose(got, want, rtol=1e-9)
  scaled = swing_kd_loss(jnp.asarray(S), jnp.asarray(T), jnp.asarray(RHO), KEY, epsilon=np.inf, scale_t2=True)
  np.testing.assert_allclose(scaled, want * tau[..., 0] ** 2, rtol=1e-9)


@pytest.mark.parametrize("mechanism", ["laplace", "gaussian"])
def test_noisy_targets_are_distributions_and_noise_grows_as_the_budget_falls(mechanism):
  logits, tau = jnp.asarray(T, jnp.float32), jnp.ones((2, 3))
  clean = jax.nn.softmax(logits)
  far = []
  for epsilon in (1.0, 1e3):
    noisy = noisy_soft_targets(KEY, logits, tau, epsilon=epsilon, mechanism=mechanism)
    np.testing.assert_allclose(noisy.sum(-1), 1, rtol=1e-5)
    assert float(noisy.min()) >= 0
    far.append(float(jnp.abs(noisy - clean).max()))
  assert far[1] < 0.05 < far[0]
  again = noisy_soft_targets(KEY, logits, tau, epsilon=1e3, mechanism=mechanism)
  np.testing.assert_array_equal(noisy, again)


def test_masked_positions_are_zero_with_no_gradient():
  where = jnp.array([[True, True, False], [True, False, True]])

  def total(s):
    return jnp.sum(swing_kd_loss(s, jnp.asarray(T, jnp.float32), jnp.asarray(RHO), KEY, epsilon=10.0, where=where))

  gradient = jax.grad(total)(jnp.asarray(S, jnp.float32))
  np.testing.assert_array_equal(gradient[~np.asarray(where)], 0)
  assert bool(jnp.any(gradient[np.asarray(where)] != 0))


@pytest.mark.parametrize(
  "change, match",
  [
    ({"epsilon": 0.0}, "epsilon and sensitivity"),
    ({"tau_lo": 0.0}, "0 < tau_lo"),
    ({"mechanism": "uniform"}, "mechanism must be one of"),
    ({"rho": np.full((2, 3), 1.5)}, "rho must be in"),
    ({"rho": np.zeros((2, 4))}, "rho must have shape"),
  ],
)
def test_bad_input(change, match):
  options = {"epsilon": 1.0, "rho": RHO} | change
  rho = jnp.asarray(options.pop("rho"), jnp.float32)
  with pytest.raises(ValueError, match=match):
    swing_kd_loss(jnp.asarray(S, jnp.float32), jnp.asarray(T, jnp.float32), rho, KEY, **options)
