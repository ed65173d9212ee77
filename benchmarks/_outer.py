"""The outer gradient of trajectory matching that the benchmarks measure: `trajectory_method` without its optimisers."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from benchmarks import _networks
from jdistill import models
from jdistill.augment import identity
from jdistill.base import Augmentation
from jdistill.losses import trajectory_matching
from jdistill.methods.dataset.trajectory import synthetic_loss


class Sizes(NamedTuple):
  """Of a ConvNet with instance norm, its square images and the inner loop."""

  side: int
  channels: int
  width: int
  depth: int
  images: int
  steps: int

  @property
  def image(self) -> tuple[int, int, int]:
    return (self.side, self.side, self.channels)


def flat_network(sizes: Sizes) -> models.FlatNetwork:
  """The network over flat parameters."""
  options = {"num_classes": _networks.CLASSES, "image_shape": sizes.image}
  return models.flatten(models.build("convnet", **options, width=sizes.width, depth=sizes.depth))


def gradients(sizes: Sizes, unroll: Callable, augment: Augmentation | None = None, reorder=lambda records: records):
  """`(key, learned, start, target) -> (loss, gradients)` with every image in every inner step.

  Args:
    sizes: of everything.
    unroll: `jdistill.bilevel.unroll` with options bound to it.
    augment: drawn anew for every step; `None` for none.
    reorder: changes the drawn records.

  Returns:
    The function; `learned` is `(images [n, pixels], label logits [n, classes], learning rate)`.
  """
  augment = augment or identity()
  loss = synthetic_loss(flat_network(sizes).apply, augment, sizes.image)
  rows = (sizes.steps, sizes.images)

  def run(key, learned, start, target):
    indices = jnp.tile(jnp.arange(sizes.images, dtype=jnp.int32)[None], (sizes.steps, 1))
    keys = jax.random.split(key, sizes.steps)
    records = reorder(jax.vmap(lambda k: augment.sample(k, (sizes.images, *sizes.image)))(keys))
    batches = {"weight": jnp.full(rows, 1 / sizes.images), "record": records}

    def outer(learned):
      pictures, labels, lr = learned
      end = unroll(loss, start, {"images": pictures, "labels": labels}, batches, lr, indices=indices)
      return trajectory_matching(end, target, start)

    return jax.value_and_grad(outer)(learned)

  return run


def shapes(sizes: Sizes):
  """The arguments of `gradients` as shapes, for compiling only."""
  pixels, parameters = sizes.side * sizes.side * sizes.channels, flat_network(sizes).size

  def shape(*dims):
    return jax.ShapeDtypeStruct(dims, jnp.float32)

  learned = (shape(sizes.images, pixels), shape(sizes.images, _networks.CLASSES), shape())
  return jax.eval_shape(lambda: jax.random.key(0)), learned, shape(parameters), shape(parameters)
