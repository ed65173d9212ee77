"""Batches: those of an inner loop, drawn before the loop so that every step is pure, and real images of any class."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.augment import repeat, show
from jdistill.base import Augmentation, Batch, Key, PyTree, View
from jdistill.schema import Count
from jdistill.synthetic import Feed, Materials


def random_batches(*, batch_real: Count = 1024) -> Feed:
  """A stream of random real images, without repetition within a step and drawn anew for each.

  Its batches are `Batch`es of `x` `[b, height, width, channels]`, classes `y` `[b]` and positions as `ids`; `b` is
  `batch_real`, or the number of real images if that is smaller.

  Args:
    batch_real: images per step.
  """

  def stream(found: Materials) -> Callable[[int], Batch]:
    count, y = min(batch_real, len(found.y)), np.asarray(found.y, np.int32)

    def batch(step: int) -> Batch:
      rng = np.random.default_rng((found.seed, step))
      positions = rng.choice(len(y), count, replace=False, shuffle=False).astype(np.int32)
      return Batch(found.x[positions], y[positions], positions)

    return batch

  def example(found: Materials) -> Batch:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), stream(found)(0))

  return Feed(stream, example)


def inner_batches(key: Key, size: int, batch_size: int, steps: int) -> tuple[jax.Array, jax.Array]:
  """Cuts random permutations of `0..size-1` into batches until `steps` of them are there.

  Every image is used once before any is used again. Where `batch_size` does not divide `size`, the batch with the rest
  comes *first* in each permutation (the released code takes batches from the end of its list) and is filled up and
  masked.

  Args:
    key: decides the order.
    size: number of synthetic images.
    batch_size: images per step; clipped to `size`.
    steps: number of inner steps.

  Returns:
    `(indices [steps, batch] int32, mask [steps, batch] bool)`.
  """
  batch_size = min(batch_size, size)
  per_round = -(-size // batch_size)
  padding = per_round * batch_size - size
  rounds = -(-steps // per_round)
  orders = jax.vmap(lambda k: jax.random.permutation(k, size))(jax.random.split(key, rounds)).astype(jnp.int32)
  indices = jnp.pad(orders, ((0, 0), (padding, 0))).reshape(-1, batch_size)
  mask = jnp.broadcast_to(jnp.arange(per_round * batch_size) >= padding, (rounds, per_round * batch_size))
  return indices[:steps], mask.reshape(-1, batch_size)[:steps]


def augmented_batches(
  key: Key, augment: Augmentation, shape: tuple[int, ...], batch_size: int, steps: int, view: View | None = None
) -> tuple[jax.Array, dict[str, PyTree]]:
  """The rows of every inner step's batch, with their weights and augmentations.

  Args:
    key: decides order and augmentations.
    augment: drawn anew for every step.
    shape: of the synthetic images, `(size, height, width, channels)`.
    batch_size: images per step; clipped to `size`.
    steps: number of inner steps.
    view: of each image; `batch_size` counts images, not views.

  Returns:
    `(indices [steps, batch] int32, rows)`: `rows` has `"weight"` `[steps, batch]`, which sums to 1 over each batch and
    is zero for padding, and the `"record"` of the augmentation with a leading axis of steps; for views its leaves are
    `[steps, batch, copies, ...]`. `seen` takes them apart.
  """
  key_order, key_augment = jax.random.split(key)
  indices, mask = inner_batches(key_order, shape[0], batch_size, steps)
  keys = jax.random.split(key_augment, steps)
  rows, copies = indices.shape[1], 1 if view is None else view.copies
  records = jax.vmap(lambda k: augment.sample(k, (rows * copies, *shape[1:])))(keys)
  if view is not None:  # the views of an image stay with it, wherever the rows of a batch are taken
    split = lambda leaf: leaf.reshape(steps, rows, copies, *leaf.shape[2:]) if leaf.ndim > 1 else leaf  # noqa: E731
    records = jax.tree.map(split, records)
  weight = mask.astype(jnp.float32)
  return indices, {"weight": weight / jnp.sum(weight, axis=1, keepdims=True), "record": records}


def seen(
  view: View | None, augment: Augmentation, images: jax.Array, labels: jax.Array, row: PyTree
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """What a network trains on in one inner step: views of some images, augmented, with their labels and weights.

  Args:
    view: of each image.
    augment: what the record belongs to.
    images: `[n, height, width, channels]` of the step's rows.
    labels: `[n, ...]`.
    row: of one step of `augmented_batches`.

  Returns:
    `(images, labels, weight)` of `n` rows, or `n * copies`; the weights have the same sum.
  """
  record, weight = row["record"], row["weight"]
  if view is not None:
    join = lambda leaf: leaf.reshape(-1, *leaf.shape[2:]) if leaf.ndim else leaf  # noqa: E731
    record, weight = jax.tree.map(join, record), repeat(view, weight) / view.copies
  return augment.apply(record, show(view, images)), repeat(view, labels), weight
