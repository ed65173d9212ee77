"""Expert trajectories: the parameters of an ordinary training run after every epoch."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jdistill.base import Apply, Augmentation, Key
from jdistill.data.samplers import epoch_batches
from jdistill.losses import cross_entropy
from jdistill.teachers.gsam import gsam_gradient


class ExpertRecipe(NamedTuple):
  """How experts train. The defaults are those of DATM's experts without the sharpness-aware part (`rho=0`).

  Attributes:
    lr: constant learning rate.
    batch_size: examples per step; the last batch of an epoch may be smaller.
    momentum: of plain SGD; trajectory matching wants 0, which is easier to imitate.
    weight_decay: added to the gradient.
    rho, alpha, adaptive: GSAM; `rho=0` is ordinary SGD.
  """

  lr: float = 0.01
  batch_size: int = 256
  momentum: float = 0.0
  weight_decay: float = 0.0
  rho: float = 0.0
  alpha: float = 0.3
  adaptive: bool = True


def expert_epoch(apply: Apply, recipe: ExpertRecipe, augment: Augmentation) -> Callable:
  """Builds one epoch of expert training as a pure function, to be jitted once and called for every epoch.

  Args:
    apply: a network over flat parameter vectors, without running statistics.
    recipe: how to train.
    augment: drawn anew for every image of every step.

  Returns:
    `(key, (theta [P], velocity [P]), x [n,H,W,C], y [n]) -> ((theta, velocity), mean loss in nats)`. Labels are hard.
  """

  def epoch(key: Key, carry, x: jax.Array, y: jax.Array):
    key_order, key_augment = jax.random.split(key)
    indices, mask = epoch_batches(key_order, x.shape[0], min(recipe.batch_size, x.shape[0]))
    keys = jax.random.split(key_augment, indices.shape[0])
    shape = (indices.shape[1], *x.shape[1:])

    def step(carry, row):
      theta, velocity = carry
      picked, valid, key = row
      images = augment.apply(augment.sample(key, shape), x[picked])
      weight = valid.astype(x.dtype) / jnp.sum(valid).astype(x.dtype)

      def loss(theta):
        return jnp.sum(weight * cross_entropy(apply(theta, images, train=True).logits, y[picked]))

      if recipe.rho:
        value, grads = gsam_gradient(loss, theta, rho=recipe.rho, alpha=recipe.alpha, adaptive=recipe.adaptive)
      else:
        value, grads = jax.value_and_grad(loss)(theta)
      velocity = recipe.momentum * velocity + grads + recipe.weight_decay * theta
      return (theta - recipe.lr * velocity, velocity), value

    carry, losses = lax.scan(step, carry, (indices, mask, keys))
    return carry, jnp.mean(losses)

  return epoch


def record_expert(
  key: Key, init: Callable[[Key], jax.Array], epoch: Callable, x: jax.Array, y: jax.Array, *, epochs: int, on_epoch=None
) -> np.ndarray:
  """Trains one expert and keeps every snapshot.

  Args:
    key: decides initialisation, order and augmentation; the same key gives the same trajectory.
    init: `key -> theta [P]`.
    epoch: from `expert_epoch`, jitted by the caller so that all experts share one program.
    x: `[n,H,W,C]` training images in network space.
    y: `[n]` integer labels.
    epochs: how many.
    on_epoch: called with `(epoch index from 1, theta, loss)` after each, for progress.

  Returns:
    `[epochs + 1, P]` on the host, row 0 the initialisation.
  """
  theta = init(jax.random.fold_in(key, 0))
  carry, snapshots = (theta, jnp.zeros_like(theta)), [jax.device_get(theta)]
  for index in range(epochs):
    carry, loss = epoch(jax.random.fold_in(key, index + 1), carry, x, y)
    snapshots.append(jax.device_get(carry[0]))
    if on_epoch is not None:
      on_epoch(index + 1, carry[0], loss)
  return np.stack(snapshots)
