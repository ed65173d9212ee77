"""Expert trajectories: the parameters of an ordinary training run after every epoch."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jdistill.base import Apply, Augmentation, Key, Pool
from jdistill.data.samplers import epoch_batches
from jdistill.losses import cross_entropy
from jdistill.ops.gsam import gsam_gradient
from jdistill.ops.rows import suggest_chunk_size, value_and_grad


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
    chunk = suggest_chunk_size(apply, carry[0], x.shape[1:], indices.shape[1])

    def step(carry, row):
      theta, velocity = carry
      picked, valid, key = row
      images = augment.apply(augment.sample(key, shape), x[picked])
      weight = valid.astype(x.dtype) / jnp.sum(valid).astype(x.dtype)

      def loss(theta, rows):
        images, labels, weight = rows
        return jnp.sum(weight * cross_entropy(apply(theta, images, train=True).logits, labels))

      def in_chunks(loss):
        return lambda theta: value_and_grad(loss, theta, (images, y[picked], weight), chunk)

      if recipe.rho:
        options = {"rho": recipe.rho, "alpha": recipe.alpha, "adaptive": recipe.adaptive}
        value, grads = gsam_gradient(in_chunks(loss), theta, **options)
      else:
        value, grads = in_chunks(loss)(theta)
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


def record_experts(
  keys: jax.Array,
  init: Callable[[Key], jax.Array],
  epoch: Callable,
  x: jax.Array,
  y: jax.Array,
  *,
  epochs: int,
  pool: Pool,
  keep: bool = True,
  on_epoch=None,
) -> np.ndarray | None:
  """Trains several experts at once; each is what `record_expert` makes of its key, up to rounding.

  Args:
    keys: `[n]`, one per expert, `n` a multiple of `pool.size`.
    init: `keys [n] -> theta [n, P]`, from `pool.spread`.
    epoch: `(keys [n], carry, x, y) -> (carry, losses [n])`, `expert_epoch` from `pool.spread`.
    x: `[n,H,W,C]` training images in network space, from `pool.share`.
    y: `[n]` integer labels, from `pool.share`.
    epochs: how many.
    pool: devices.
    keep: whether this process wants the snapshots; all of them train.
    on_epoch: called with `(epoch index from 1, thetas, mean loss)` after each, for progress.

  Returns:
    `[n, epochs + 1, P]` on the host, or `None` without `keep`.
  """
  fold = jax.jit(jax.vmap(jax.random.fold_in, (0, None)))
  theta = init(fold(keys, 0))
  carry, snapshots = (theta, jax.tree.map(jnp.zeros_like, theta)), []
  for index in range(epochs + 1):
    if index:
      carry, losses = epoch(fold(keys, index), carry, x, y)
    thetas = pool.fetch(carry[0])
    if keep:
      snapshots.append(thetas)
    if index and on_epoch is not None:
      on_epoch(index, carry[0], float(np.mean(pool.fetch(losses))))
  return np.stack(snapshots, axis=1) if keep else None
