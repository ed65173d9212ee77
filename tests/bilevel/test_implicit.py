"""Implicit gradients against dense solves and against finite differences through the inner optimum, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jdistill.bilevel import (
  adam_descent,
  adam_solve,
  conjugate_gradients,
  hessian_product,
  implicit_gradient,
  linearise,
)

RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(8, 5)), RNG.normal(size=(5, 3))


def inner(tau, omega):
  """Strongly convex in `tau`, of no closed form."""
  fitted = jnp.tanh(omega["x"]) @ tau["w"] + tau["b"][None]
  return (
    jnp.mean(jnp.log(jnp.cosh(fitted - omega["y"][:, None]))) + 0.1 * jnp.sum(tau["w"] ** 2) + 0.1 * tau["b"] @ tau["b"]
  )


def outer(tau, omega):
  value = jnp.sum((jnp.asarray(A) @ tau["w"] - 1) ** 2) + jnp.sum(jnp.sin(tau["b"])) * jnp.mean(omega["x"] ** 2)
  return value, {"twice": 2 * value}


def problem():
  omega = {"x": jnp.asarray(RNG.normal(size=(6, 5))), "y": jnp.asarray(RNG.normal(size=6))}
  return {"w": jnp.zeros((5, 1)), "b": jnp.zeros(1)}, omega


@jax.jit
def optimum(tau, omega):
  """By Newton's method."""
  flat, unravel = ravel_pytree(tau)
  loss = lambda flat: inner(unravel(flat), omega)  # noqa: E731
  newton = lambda _, flat: flat - jnp.linalg.solve(jax.hessian(loss)(flat), jax.grad(loss)(flat))  # noqa: E731
  return unravel(jax.lax.fori_loop(0, 12, newton, flat))


def test_it_is_the_gradient_through_the_optimum(x64):
  tau, omega = problem()
  best = optimum(tau, omega)
  found = jax.jit(lambda tau, omega: implicit_gradient(inner, outer, tau, omega, conjugate_gradients(6)))(best, omega)
  flat, unravel = ravel_pytree(omega)
  value = lambda flat: float(outer(optimum(tau, unravel(flat)), unravel(flat))[0])  # noqa: E731
  numeric = [(value(flat + step) - value(flat - step)) / 2e-5 for step in 1e-5 * np.eye(flat.size)]
  total = ravel_pytree(jax.tree.map(jnp.add, found.direct, found.implicit))[0]
  np.testing.assert_allclose(total, numeric, rtol=1e-5, atol=1e-7)
  assert float(found.value) == pytest.approx(value(flat)) and float(found.aux["twice"]) == 2 * float(found.value)
  assert all(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(found.implicit))


def test_it_equals_the_dense_solve_anywhere(x64):
  """Also where `tau` is no optimum, with both solvers."""
  tau, omega = problem()
  tau = jax.tree.map(lambda leaf: leaf + 0.3, tau)
  flat, unravel = ravel_pytree(tau)
  rows, back = ravel_pytree(omega)
  hessian = jax.hessian(lambda flat: inner(unravel(flat), omega))(flat)
  mixed = jax.jacobian(lambda rows: jax.grad(lambda flat: inner(unravel(flat), back(rows)))(flat))(rows)
  wanted = jax.grad(lambda flat: outer(unravel(flat), omega)[0])(flat)
  want = -mixed.T @ jnp.linalg.solve(hessian, wanted)
  for solve, tolerance in ((conjugate_gradients(6), 1e-9), (adam_solve(0.05, 4000), 1e-5)):
    found = jax.jit(lambda tau, omega, solve=solve: implicit_gradient(inner, outer, tau, omega, solve))(tau, omega)
    np.testing.assert_allclose(ravel_pytree(found.implicit)[0], want, rtol=tolerance, atol=tolerance)
  assert found.trace.shape == (4000,) and found.trace[0] == 0
  best = jnp.linalg.solve(hessian, wanted)
  assert float(found.trace[-1]) == pytest.approx(float(-0.5 * best @ wanted), rel=1e-6)
  v = jax.tree.map(lambda leaf: jnp.asarray(RNG.normal(size=leaf.shape)), tau)
  product = hessian_product(lambda tau: inner(tau, omega), tau, v)
  np.testing.assert_allclose(ravel_pytree(product)[0], hessian @ ravel_pytree(v)[0], rtol=1e-9)


def test_adam_descent(x64):
  target = RNG.normal(size=4)
  found, values = jax.jit(
    lambda lr: adam_descent(jax.value_and_grad(lambda x: 0.5 * jnp.sum((x - target) ** 2)), jnp.zeros(4), lr, 5)
  )(0.1)
  x, first, second, want = np.zeros(4), 0.0, 0.0, []
  for count in range(1, 6):
    want.append(0.5 * ((x - target) ** 2).sum())
    first, second = 0.9 * first + 0.1 * (x - target), 0.999 * second + 0.001 * (x - target) ** 2
    x = x - 0.1 * first / (1 - 0.9**count) / (np.sqrt(second / (1 - 0.999**count)) + 1e-8)
  np.testing.assert_allclose(found, x, rtol=1e-6)
  np.testing.assert_allclose(values, want, rtol=1e-6)


def test_a_linearised_function(x64):
  function = lambda tree: jnp.tanh(tree["a"] @ tree["b"])  # noqa: E731
  at = {"a": jnp.asarray(A), "b": jnp.asarray(B)}
  tangent = jax.tree.map(lambda leaf: jnp.asarray(RNG.normal(size=leaf.shape)), at)
  value, change = linearise(function, at, tangent)
  moved = lambda e: np.tanh((A + e * np.asarray(tangent["a"])) @ (B + e * np.asarray(tangent["b"])))  # noqa: E731
  np.testing.assert_allclose(value, moved(0), rtol=1e-12)
  np.testing.assert_allclose(change, (moved(1e-6) - moved(-1e-6)) / 2e-6, rtol=1e-6, atol=1e-8)
