"""The gradient of a loss after one step of training, in what the step was made of."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jdistill.base import PyTree
from jdistill.bilevel.unroll import unroll


def one_step_hypergradient(
  inner_loss: Callable[[PyTree, PyTree], jax.Array],
  outer_loss: Callable[[PyTree], jax.Array],
  theta: PyTree,
  omega: PyTree,
  lr: float | jax.Array,
) -> tuple[jax.Array, PyTree]:
  """Value and gradient in `omega` of `outer_loss(theta - lr grad_theta inner_loss(theta, omega))`.

  The gradient is `-lr (d_omega grad_theta inner_loss)^T grad outer_loss(theta')`: the true one, through a virtual step
  of plain SGD. `theta` itself is not changed. More steps, and a learned `lr`: `jdistill.bilevel.unroll`.

  Args:
    inner_loss: `(theta, omega) -> scalar`, what the virtual step descends. `omega` must act through this argument and
      not through a closure.
    outer_loss: `(theta) -> scalar`, on data held out from the training of `theta`.
    theta: pytree of floating arrays, such as a student's parameters.
    omega: pytree of floating arrays, such as a controller's parameters.
    lr: of the virtual step, scalar; that of the real optimiser.

  Returns:
    `(outer loss after the virtual step, gradient in the structure of omega)`.

  Raises:
    ValueError: if `lr` is not a scalar.

  Cost: about three gradients of the inner loss and one of the outer one.

  References:
    Hu et al., "Less or More From Teacher: Exploiting Trilateral Geometry For Knowledge Distillation"
    (arXiv 2312.15112), the outer update. Its released script detaches `omega` before the step, so that the gradient is
    zero there.
  """
  if jnp.ndim(lr) != 0:
    raise ValueError(f"one_step_hypergradient: lr must be a scalar, got shape {jnp.shape(lr)}")
  one_step = jnp.zeros(1)

  def after_the_step(omega):
    return outer_loss(
      unroll(lambda theta, omega, batch: inner_loss(theta, omega), theta, omega, one_step, jnp.asarray(lr))
    )

  return jax.value_and_grad(after_the_step)(omega)
