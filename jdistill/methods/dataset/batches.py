"""Batches: those of an inner loop, drawn before the loop so that every step is pure, and real images of any class."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import Batch, Key
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
