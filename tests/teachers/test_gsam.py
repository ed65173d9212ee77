"""GSAM's gradient against NumPy, and its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_experts as reference
import pytest

from jdistill.ops.gsam import gsam_gradient

CASES = [(0.05, 0.3, True), (0.05, 0.3, False), (0.5, 0.0, True), (0.01, 1.0, False)]


@pytest.mark.parametrize(("rho", "alpha", "adaptive"), CASES)
def test_quadratic(rho, alpha, adaptive, x64):
  rng = np.random.default_rng(0)
  root, b, theta = rng.normal(size=(6, 6)), rng.normal(size=6), rng.normal(size=6)
  a = root @ root.T
  value, got = gsam_gradient(
    jax.value_and_grad(lambda p: 0.5 * p @ jnp.asarray(a) @ p - jnp.asarray(b) @ p), jnp.asarray(theta),
    rho=rho, alpha=alpha, adaptive=adaptive,
  )  # fmt: skip
  np.testing.assert_allclose(value, 0.5 * theta @ a @ theta - b @ theta, rtol=1e-12)
  np.testing.assert_allclose(got, reference.gsam(lambda p: a @ p - b, theta, rho, alpha, adaptive), rtol=1e-9)


@pytest.mark.parametrize(("rho", "alpha", "adaptive"), CASES)
def test_logistic_model_with_parameters_in_two_leaves(rho, alpha, adaptive, x64):
  """Norms run over all parameters, not leaf by leaf."""
  rng = np.random.default_rng(1)
  x, y, theta = rng.normal(size=(8, 4)), rng.integers(0, 3, 8), rng.normal(size=15)
  tree = {"w": jnp.asarray(theta[:12].reshape(4, 3)), "bias": jnp.asarray(theta[12:])}

  def loss(p):
    logs = jax.nn.log_softmax(jnp.asarray(x) @ p["w"] + p["bias"][None])
    return -jnp.mean(logs[jnp.arange(8), jnp.asarray(y)])

  value, got = gsam_gradient(jax.value_and_grad(loss), tree, rho=rho, alpha=alpha, adaptive=adaptive)
  gradient = lambda at: reference.loss_and_gradient(at, x, y)[1]  # noqa: E731
  want = reference.gsam(gradient, theta, rho, alpha, adaptive)
  np.testing.assert_allclose(value, reference.loss_and_gradient(theta, x, y)[0], rtol=1e-12)
  np.testing.assert_allclose(np.concatenate([got["w"].ravel(), got["bias"]]), want, rtol=1e-9)


def cubic(p):
  return jnp.sum(p**3) + p[0] * p[1]


def test_without_the_orthogonal_part_it_is_the_gradient_at_the_perturbed_point(x64):
  p, rho = jnp.array([1.0, -2.0, 0.5]), 0.1
  g0 = jax.grad(cubic)(p)
  _, sam = gsam_gradient(jax.value_and_grad(cubic), p, rho=rho, alpha=0.0, adaptive=False)
  np.testing.assert_allclose(sam, jax.grad(cubic)(p + rho * g0 / jnp.linalg.norm(g0)), rtol=1e-9)
  # the orthogonal part is orthogonal to the perturbed gradient, so it does not change the component along it
  _, full = gsam_gradient(jax.value_and_grad(cubic), p, rho=rho, alpha=0.7, adaptive=False)
  np.testing.assert_allclose((full - sam) @ sam, 0.0, atol=1e-9)
  assert np.abs(full - sam).max() > 1e-3


@pytest.mark.parametrize("adaptive", [True, False])
def test_a_vanishing_radius_gives_the_plain_gradient(adaptive, x64):
  p = jnp.array([1.0, -2.0, 0.5])
  _, got = gsam_gradient(jax.value_and_grad(cubic), p, rho=1e-9, alpha=0.3, adaptive=adaptive)
  np.testing.assert_allclose(got, jax.grad(cubic)(p), rtol=1e-7)


def test_a_stationary_point_gives_zero_and_not_nan():
  _, got = gsam_gradient(jax.value_and_grad(lambda p: jnp.sum(jnp.square(p))), jnp.zeros(3), rho=0.1, alpha=0.3)
  np.testing.assert_array_equal(got, np.zeros(3))
