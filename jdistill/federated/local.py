"""A round of training on one client: plain SGD, and what it looks like from the server."""

from collections.abc import Mapping
from typing import Protocol

import jax
import jax.numpy as jnp

from jdistill.base import Key, PyTree, Variables


class LocalLoss(Protocol):
  """What a client minimises on one batch."""

  def __call__(
    self, params: PyTree, stats: PyTree, x: jax.Array, y: jax.Array, weight: jax.Array
  ) -> tuple[jax.Array, tuple[PyTree, Mapping[str, jax.Array]]]:
    """The loss of a batch.

    Args:
      params, stats: of the network.
      x: `[B, ...]`.
      y: `[B]` integers.
      weight: `[B]` float32, 0 for padding.

    Returns:
      `(scalar, (running statistics, metrics))`; metrics are scalars by name.
    """
    ...


def epoch_batches(key: Key, weight: jax.Array, batch_size: int, epochs: int) -> tuple[jax.Array, jax.Array]:
  """Batches of some passes over examples, each in a random order of its own; padding comes last.

  Args:
    key: decides the orders.
    weight: `[n]`, 0 for padding among the examples.
    batch_size: rows of a batch; the last one of a pass is filled up with weight 0.
    epochs: passes.

  Returns:
    `(index [steps, B] int32, weight [steps, B])`.
  """
  count = weight.shape[0]
  batch_size = min(batch_size, count)
  steps = -(-count // batch_size)

  def epoch(key: Key) -> tuple[jax.Array, jax.Array]:
    order = jnp.argsort(jnp.where(weight > 0, jax.random.uniform(key, (count,)), 2)).astype(jnp.int32)
    index = jnp.pad(order, (0, steps * batch_size - count))
    own = jnp.pad(weight[order], (0, steps * batch_size - count))
    return index.reshape(steps, batch_size), own.reshape(steps, batch_size)

  index, own = jax.vmap(epoch)(jax.random.split(key, epochs))
  return index.reshape(-1, batch_size), own.reshape(-1, batch_size)


def local_round(
  loss: LocalLoss,
  variables: Variables,
  x: jax.Array,
  y: jax.Array,
  weight: jax.Array,
  key: Key,
  *,
  lr: float,
  batch_size: int,
  epochs: int,
) -> tuple[Variables, dict[str, jax.Array]]:
  """Some passes of SGD without momentum: `theta <- theta - lr grad loss(theta; batch)`.

  Args:
    loss: of a batch.
    variables: at the beginning, the same on all clients.
    x, y: `[n, ...]`, `[n]`, the client's examples.
    weight: `[n]` float32; 0 marks padding, so that clients of different sizes have one shape. A batch of padding alone
      changes nothing.
    key: decides the order.
    lr, batch_size, epochs: of the SGD.

  Returns:
    The variables at the end, and the means of the metrics over the batches that had examples.
  """
  gradient = jax.grad(loss, has_aux=True)

  def step(now: Variables, batch: tuple) -> tuple[Variables, tuple]:
    index, own = batch
    grads, (stats, metrics) = gradient(now.params, now.stats, x[index], y[index], own)
    moved = Variables(jax.tree.map(lambda p, g: p - lr * g, now.params, grads), stats)
    some = jnp.any(own > 0)
    return jax.tree.map(lambda a, b: jnp.where(some, a, b), moved, now), (some, metrics)

  variables, (some, metrics) = jax.lax.scan(step, variables, epoch_batches(key, weight, batch_size, epochs))
  count = jnp.maximum(jnp.sum(some), 1)
  return variables, {
    name: jnp.sum(jnp.where(some, value, 0)) / count.astype(value.dtype) for name, value in metrics.items()
  }


def pseudo_gradient(before: PyTree, after: PyTree, lr: float) -> PyTree:
  """`(theta_before - theta_after) / lr`: the sum of the gradients of all steps of SGD in between, the mean of clients.

  For one step on all examples of one client it is the gradient. Momentum or another optimiser breaks the identity.

  Raises:
    ValueError: `lr` is not above 0.
  """
  if not lr > 0:
    raise ValueError(f"pseudo_gradient: lr={lr}: must be above 0; a round without steps has no gradient")
  return jax.tree.map(lambda a, b: (a - b) / lr, before, after)
