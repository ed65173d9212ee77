"""Implicit gradients: what an optimum of an inner loss does to an outer one, by solves with the inner Hessian."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jdistill.base import PyTree

Solve = Callable[[Callable[[PyTree], PyTree], PyTree], tuple[PyTree, jax.Array]]


class ImplicitGradient(NamedTuple):
  """What `implicit_gradient` finds.

  Attributes:
    value: of the outer loss.
    aux: what else the outer loss gave.
    direct: its gradient in `omega` with the inner solution held fixed.
    implicit: what comes through the inner solution.
    trace: of the solver.
  """

  value: jax.Array
  aux: PyTree
  direct: PyTree
  implicit: PyTree
  trace: jax.Array


def linearise(function: Callable[[PyTree], PyTree], at: PyTree, tangent: PyTree) -> tuple[PyTree, PyTree]:
  """`(f(at), J(at) tangent)`: a function's first-order Taylor series, linear in `tangent` and differentiable in it.

  Args:
    function: of one pytree, such as the parameters of a network.
    at: where it is expanded.
    tangent: the change, of the structure of `at`.
  """
  return jax.jvp(function, (at,), (tangent,))


def hessian_product(loss: Callable[[PyTree], jax.Array], x: PyTree, v: PyTree) -> PyTree:
  """`H v` with the Hessian `H` of a scalar function at `x`, forward over reverse."""
  return jax.jvp(jax.grad(loss), (x,), (v,))[1]


def adam_descent(
  value_and_grad: Callable[[PyTree], tuple[jax.Array, PyTree]], start: PyTree, lr: float | jax.Array, steps: int
) -> tuple[PyTree, jax.Array]:
  """Some steps of Adam from `start`.

  Args:
    value_and_grad: `(x) -> (value, gradient)`.
    start: pytree of floating arrays.
    lr: the rate; may be traced.
    steps: how many.

  Returns:
    `(x, values [steps])`, the values before each step.
  """
  direction = optax.scale_by_adam()

  def step(carry, _):
    x, state = carry
    value, grads = value_and_grad(x)
    with jax.numpy_dtype_promotion("standard"):  # optax adds Python numbers to step counters
      updates, state = direction.update(grads, state)
    x = jax.tree.map(lambda a, b: a - jnp.asarray(lr, a.dtype) * b, x, updates)
    return (x, state), value

  (x, _), values = lax.scan(step, (start, direction.init(start)), length=steps)
  return x, values


def adam_solve(lr: float | jax.Array, steps: int) -> Solve:
  """A solver of `H x = b` for positive definite `H`: Adam from 0 on `1/2 x'Hx - x'b`; its trace are these values.

  Args:
    lr, steps: of `adam_descent`.
  """

  def solve(product: Callable[[PyTree], PyTree], b: PyTree) -> tuple[PyTree, jax.Array]:
    def value_and_grad(x: PyTree) -> tuple[jax.Array, PyTree]:
      hx = product(x)
      return 0.5 * _dot(x, hx) - _dot(x, b), jax.tree.map(jnp.subtract, hx, b)

    return adam_descent(value_and_grad, jax.tree.map(jnp.zeros_like, b), lr, steps)

  return solve


def conjugate_gradients(steps: int) -> Solve:
  """A solver of `H x = b` for positive definite `H`: conjugate gradients from 0, exact after as many steps as there are
  different eigenvalues; its trace is empty.

  Args:
    steps: at most.
  """

  def solve(product: Callable[[PyTree], PyTree], b: PyTree) -> tuple[PyTree, jax.Array]:
    x, _ = jax.scipy.sparse.linalg.cg(product, b, maxiter=steps, tol=0.0, atol=0.0)
    return x, jnp.zeros(0)

  return solve


def implicit_gradient(
  inner_loss: Callable[[PyTree, PyTree], jax.Array],
  outer_loss: Callable[[PyTree, PyTree], tuple[jax.Array, PyTree]],
  tau: PyTree,
  omega: PyTree,
  solve: Solve,
) -> ImplicitGradient:
  """The gradient in `omega` of `outer_loss(tau*, omega)`, where `tau*` is the minimum of `inner_loss(., omega)`.

      d outer / d omega  -  (d^2 inner / d omega d tau)^T h,      H h = d outer / d tau,   H = d^2 inner / d tau^2

  It is exact where `tau` is a minimum and `solve` finds `h`.

  Args:
    inner_loss: `(tau, omega) -> scalar`, with a positive definite Hessian in `tau`.
    outer_loss: `(tau, omega) -> (scalar, aux)`.
    tau: the minimum, or close to it.
    omega: what the gradient is taken in; must act through these arguments.
    solve: `(v -> H v, b) -> (h, trace)`, such as `adam_solve(lr, steps)`.

  Returns:
    `ImplicitGradient`, whose parts `direct` and `implicit` add up to the gradient.

  Cost: one gradient of the outer loss, one product with the inner Hessian per step of the solver, and one more.

  References:
    Loo et al., "Dataset Distillation with Convexified Implicit Gradients" (arXiv 2302.06755).
  """
  (value, aux), (wanted, direct) = jax.value_and_grad(outer_loss, argnums=(0, 1), has_aux=True)(tau, omega)
  found, trace = solve(lambda v: hessian_product(lambda tau: inner_loss(tau, omega), tau, v), wanted)
  found = lax.stop_gradient(found)

  def through(omega: PyTree) -> jax.Array:
    return -_dot(found, jax.grad(inner_loss)(tau, omega))

  return ImplicitGradient(value, aux, direct, jax.grad(through)(omega), trace)


def _dot(a: PyTree, b: PyTree) -> jax.Array:
  return sum(jax.tree.leaves(jax.tree.map(lambda u, v: jnp.sum(u * v), a, b)))
