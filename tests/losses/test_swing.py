"""Swing distillation: temperatures, noisy targets and their limits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import losses
from jdistill.losses import swing_temperature

STATIC = ("epsilon", "mechanism", "noise_on", "scale_t2", "tau_lo", "tau_hi")
swing_kd_loss = jax.jit(functools.partial(losses.swing_kd_loss, scale_t2=False), static_argnames=STATIC)
noisy_soft_targets = jax.jit(losses.noisy_soft_targets, static_argnames=STATIC[:3])
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
  got = swing_kd_loss(KEY, jnp.asarray(S), jnp.asarray(T), jnp.asarray(RHO), epsilon=np.inf)
  np.testing.assert_allclose(got, want, rtol=1e-9)
  scaled = swing_kd_loss(KEY, jnp.asarray(S), jnp.asarray(T), jnp.asarray(RHO), epsilon=np.inf, scale_t2=True)
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
    return jnp.sum(swing_kd_loss(KEY, s, jnp.asarray(T, jnp.float32), jnp.asarray(RHO), epsilon=10.0, where=where))

  gradient = jax.grad(total)(jnp.asarray(S, jnp.float32))
  np.testing.assert_array_equal(gradient[~np.asarray(where)], 0)
  assert bool(jnp.any(gradient[np.asarray(where)] != 0))


@pytest.mark.parametrize(
  "change, match",
  [
    ({"epsilon": 0.0}, "epsilon must be > 0"),
    ({"tau_lo": 0.0}, "tau_lo must be > 0"),
    ({"mechanism": "uniform"}, "mechanism must be one of"),
    ({"rho": np.full((2, 3), 1.5)}, "rho must be in"),
    ({"rho": np.zeros((2, 4))}, "rho must have shape"),
  ],
)
def test_bad_input(change, match):
  options = {"epsilon": 1.0, "rho": RHO} | change
  rho = jnp.asarray(options.pop("rho"), jnp.float32)
  with pytest.raises(ValueError, match=match):
    losses.swing_kd_loss(KEY, jnp.asarray(S, jnp.float32), jnp.asarray(T, jnp.float32), rho, **options)


def test_literal_number():
  student, teacher = jnp.array([[2.0, 0.0, -1.0]]), jnp.log(jnp.array([[1.0, 2.0, 4.0]]))
  loss = swing_kd_loss(KEY, student, teacher, jnp.zeros(1), epsilon=np.inf)
  np.testing.assert_allclose(loss, [1.4998604], rtol=1e-5)  # KL of (1/7, 2/7, 4/7) at temperature 1


def test_noise_has_the_scale_of_the_budget():
  logits, tau = jnp.zeros((4000, 2)), jnp.ones(4000)
  for mechanism, deviation in (("gaussian", 0.1), ("laplace", 0.1 * np.sqrt(2))):
    options = {"epsilon": 10.0, "mechanism": mechanism, "noise_on": "logits"}
    noisy = noisy_soft_targets(KEY, logits, tau, **options)
    margin = jnp.log(noisy[:, 0]) - jnp.log(noisy[:, 1])  # the difference of two draws
    np.testing.assert_allclose(jnp.std(margin), deviation * np.sqrt(2), rtol=0.06)
    assert bool(jnp.any(noisy_soft_targets(jax.random.key(1), logits, tau, **options) != noisy))


def test_uniform_targets_where_noise_leaves_nothing():
  noisy = noisy_soft_targets(KEY, jnp.zeros((200, 2)), jnp.ones(200), epsilon=1e-3)
  even = np.all(np.asarray(noisy) == 0.5, axis=1)  # both draws were negative: a quarter of the rows
  assert 0.1 < even.mean() < 0.4
  np.testing.assert_allclose(noisy.sum(-1), 1, rtol=1e-5)


def test_private_positions_have_flat_targets_and_small_gradients():
  s, t = jnp.asarray(S, jnp.float32), jnp.asarray(T, jnp.float32)
  both = jax.jit(jax.grad(lambda z, rho: jnp.sum(swing_kd_loss(KEY, z, t, rho, epsilon=np.inf))))
  ordinary, private = (jnp.max(jnp.abs(both(s, jnp.full((2, 3), rho))), axis=-1) for rho in (0.0, 1.0))
  assert bool(jnp.all(private < 0.2 * ordinary))
  flat = noisy_soft_targets(KEY, t, swing_temperature(jnp.ones((2, 3)), tau_hi=1e4), epsilon=np.inf)
  np.testing.assert_allclose(flat, np.full((2, 3, 4), 0.25), rtol=1e-3)


def test_shifts_equal_sides_and_frozen_arguments():
  s, t, rho = jnp.asarray(S, jnp.float32), jnp.asarray(T, jnp.float32), jnp.asarray(RHO, jnp.float32)
  base = swing_kd_loss(KEY, s, t, rho, epsilon=5.0)
  np.testing.assert_allclose(swing_kd_loss(KEY, s + 3, t - 5, rho, epsilon=5.0), base, rtol=1e-3, atol=1e-5)
  np.testing.assert_allclose(swing_kd_loss(KEY, t, t, rho, epsilon=np.inf), np.zeros((2, 3)), atol=1e-6)
  total = jax.jit(jax.grad(lambda *a: jnp.sum(losses.swing_kd_loss(KEY, *a, epsilon=5.0)), argnums=(0, 1, 2)))
  by_student, by_teacher, by_rho = total(s, t, rho)
  assert by_student.any() and not by_teacher.any() and not by_rho.any()


def test_gradient_equals_finite_differences(x64):
  t, rho, step = jnp.asarray(T), jnp.asarray(RHO), 1e-6
  both = jax.jit(jax.value_and_grad(lambda z: jnp.sum(losses.swing_kd_loss(KEY, z, t, rho, epsilon=5.0))))
  gradient = both(jnp.asarray(S))[1]
  for place in ((0, 0, 0), (1, 2, 3)):
    bump = np.zeros_like(S)
    bump[place] = step
    ahead, behind = (both(jnp.asarray(S + sign * bump))[0] for sign in (1, -1))
    np.testing.assert_allclose(gradient[place], (ahead - behind) / (2 * step), rtol=1e-5)


def test_padding_may_hold_anything():
  where = jnp.array([[True, True, False]])
  z = jnp.asarray(S[:1], jnp.float32).at[0, 2].set(jnp.nan)
  rho = jnp.array([[0.0, 1.0, 7.0]])
  loss = losses.swing_kd_loss(KEY, z, -z, rho, epsilon=np.inf, where=where)
  assert loss[0, 2] == 0 and bool(jnp.all(loss[0, :2] > 0))
  total, gradient = jax.jit(
    jax.value_and_grad(lambda z, r: jnp.sum(losses.swing_kd_loss(KEY, z, -z, r, epsilon=np.inf, where=where)))
  )(z, rho)
  np.testing.assert_allclose(total, jnp.sum(loss), rtol=1e-6)
  assert gradient[0, :2].any() and bool(jnp.all(jnp.isfinite(gradient))) and not gradient[0, 2].any()


def test_finite_in_bfloat16_and_rho_out_of_range_in_traced_code():
  z = jnp.array([[1e4, -1e4, 0.0]], jnp.bfloat16)
  both = jax.jit(jax.value_and_grad(lambda z, r: jnp.sum(losses.swing_kd_loss(KEY, z, -z, r, epsilon=1.0))))
  value, gradient = both(z, jnp.zeros(1))
  assert value.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
  assert bool(jnp.isfinite(value)) and bool(jnp.all(jnp.isfinite(gradient)))
  assert bool(jnp.isnan(both(z, jnp.full(1, 1.5))[0]))  # what cannot raise must not pass


@pytest.mark.parametrize(
  "call, match",
  [
    (lambda: swing_temperature(jnp.zeros(1), tau_lo=3.0, tau_hi=2.0), "0 < tau_lo <= tau_hi"),
    (lambda: losses.noisy_soft_targets(KEY, jnp.zeros((2, 3)), jnp.ones(3), epsilon=1), r"tau must have shape \(2,\)"),
    (lambda: losses.noisy_soft_targets(KEY, jnp.zeros(3), jnp.ones(()), epsilon=1, noise_on="x"), "noise_on must be"),
    (lambda: losses.swing_kd_loss(KEY, jnp.zeros((2, 3)), jnp.zeros((2, 4)), jnp.zeros(2), epsilon=1), "equal"),
  ],
)
def test_other_bad_input(call, match):
  with pytest.raises(ValueError, match=match) as caught:
    call()
  assert "\n" not in str(caught.value)
