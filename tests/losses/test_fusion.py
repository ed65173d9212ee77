"""KD with a weight per example: its formula, and that the controller's gradient is the true one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jdistill.bilevel import one_step_hypergradient
from jdistill.losses import fusion

RNG = np.random.default_rng(0)
ZS, ZT = RNG.normal(size=(4, 3)), RNG.normal(size=(4, 3))
Y = np.array([0, 2, 1, 2])
ALPHA = np.array([0.0, 0.3, 0.7, 1.0])


def softmax(z):
  e = np.exp(z - z.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def reference(zs, zt, y, alpha, temperature):
  p, q = softmax(zt / temperature), softmax(zs / temperature)
  kl = temperature**2 * (p * np.log(p / q)).sum(-1)
  return alpha * kl - (1 - alpha) * np.log(softmax(zs)[np.arange(len(y)), y])


def test_fused_loss(x64):
  zs, zt, y, alpha = map(jnp.asarray, (ZS, ZT, Y, ALPHA))
  np.testing.assert_allclose(fusion.fused_kd_loss(zs, zt, y, alpha), reference(ZS, ZT, Y, ALPHA, 1.5), rtol=1e-10)
  half = fusion.fused_kd_loss(zs, zt, y, 0.5, temperature=4.0)
  np.testing.assert_allclose(half, reference(ZS, ZT, Y, 0.5, 4.0), rtol=1e-10)
  total = jax.jit(lambda zs, alpha: fusion.fused_kd_loss(zs, zt, y, alpha).sum())
  check_grads(total, (zs, jnp.full(4, 0.5)), order=1, modes=["rev"])
  np.testing.assert_array_equal(jax.grad(lambda zt: fusion.fused_kd_loss(zs, zt, y, alpha).sum())(zt), 0)


def test_fused_loss_in_bfloat16():
  z = jnp.array([[1e4, 0.0]], jnp.bfloat16)
  loss = fusion.fused_kd_loss(z, -z, jnp.array([1]), 0.5)
  assert loss.dtype == jnp.float32 and np.isfinite(loss).all()


def test_hypergradient_of_a_controller(x64):
  """A linear student and a controller of two numbers, against finite differences of the virtual step."""
  x, x_val = jnp.asarray(RNG.normal(size=(4, 2))), jnp.asarray(RNG.normal(size=(4, 2)))
  zt, y = jnp.asarray(ZT), jnp.asarray(Y)
  theta, omega, lr = jnp.asarray(RNG.normal(size=(2, 3))), jnp.array([0.3, -0.2]), 0.5

  def inner(theta, omega):
    alpha = jax.nn.sigmoid(omega[0] * x[:, 0] + omega[1])
    return jnp.mean(fusion.fused_kd_loss(x @ theta, zt, y, alpha))

  def outer(theta):
    return jnp.mean(fusion.fused_kd_loss(x_val @ theta, zt, y, 0.0))

  step = jax.jit(lambda omega: outer(theta - lr * jax.grad(inner)(theta, omega)))
  value, grad = jax.jit(lambda omega: one_step_hypergradient(inner, outer, theta, omega, lr))(omega)
  np.testing.assert_allclose(value, step(omega), rtol=1e-12)
  h = 1e-5 * jnp.eye(2)
  expected = [(step(omega + row) - step(omega - row)) / 2e-5 for row in h]
  assert np.abs(expected).min() > 1e-4
  np.testing.assert_allclose(grad, expected, rtol=1e-6)


def test_hypergradient_literal():
  """inner (theta - omega)^2 / 2, outer theta^2 / 2: theta' = theta - lr (theta - omega), gradient lr theta'."""
  value, grad = one_step_hypergradient(
    lambda theta, omega: jnp.square(theta - omega["w"]) / 2, lambda theta: jnp.square(theta) / 2,
    jnp.array(2.0), {"w": jnp.array(1.0)}, 0.25,
  )  # fmt: skip
  np.testing.assert_allclose((value, grad["w"]), (1.75**2 / 2, 0.25 * 1.75))


def test_errors():
  z, y = jnp.ones((2, 3)), jnp.array([0, 1])
  for call, match in (
    (lambda: fusion.fused_kd_loss(z, z, y, 1.5), r"alpha must be within"),
    (lambda: fusion.fused_kd_loss(z, z, y, jnp.ones(3)), "alpha must be a number"),
    (lambda: fusion.fused_kd_loss(z, z, z, 0.5), "labels must be integers"),
    (lambda: fusion.fused_kd_loss(z, z, y, 0.5, temperature=0), "temperature must be > 0"),
    (lambda: one_step_hypergradient(None, None, z, z, z), "lr must be a scalar"),
  ):
    with pytest.raises(ValueError, match=match):
      call()
