"""Virtual data: images that a client distils from its own and trains on in their place."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import Augmentation, Batch, Key, Network, Variables
from jdistill.methods.dataset.dm import dm
from jdistill.synthetic import SyntheticSet


class Virtual(NamedTuple):
  """How virtual images are made.

  Attributes:
    ipc: images per class.
    steps: of distribution matching before the first round, each with a random network.
    batch_real: real images per class and step.
    lr, momentum: SGD on images.
    siamese: an augmentation with one draw for real and virtual images; `None` for none.
  """

  ipc: int
  steps: int
  batch_real: int
  lr: float
  momentum: float
  siamese: Augmentation | None


def class_labels(num_classes: int, ipc: int) -> np.ndarray:
  """`[num_classes * ipc]` int32, sorted."""
  return np.repeat(np.arange(num_classes, dtype=np.int32), ipc)


def normal_images(key: Key, mean: jax.Array, deviation: jax.Array, ipc: int, image_shape: tuple[int, ...]) -> jax.Array:
  """Images of independent normal pixels with the moments of each class and channel.

  Args:
    key: decides the pixels.
    mean, deviation: `[C, channels]`.
    ipc: images per class.
    image_shape: `(height, width, channels)`.

  Returns:
    `[C * ipc, height, width, channels]`, sorted by class.
  """
  noise = jax.random.normal(key, (mean.shape[0], ipc, *image_shape))
  images = mean[:, None, None, None] + deviation[:, None, None, None] * noise
  return images.reshape(-1, *image_shape)


def draw_by_class(
  key: Key, y: jax.Array, weight: jax.Array, num_classes: int, count: int
) -> tuple[jax.Array, jax.Array]:
  """Some examples of each class without repetition.

  Args:
    key: decides which.
    y: `[n]` integers.
    weight: `[n]`, 0 for padding.
    num_classes: number of classes.
    count: per class, at most `n`.

  Returns:
    `(positions [C, count] int32, weight [C, count] float32)`; a class with fewer examples is given whole, and the rest
    of its row has weight 0.
  """
  scores = jax.random.uniform(key, y.shape)
  own = (y[None] == jnp.arange(num_classes, dtype=y.dtype)[:, None]) & (weight > 0)[None]  # [C, n]
  found, positions = jax.lax.top_k(jnp.where(own, scores[None], -1), count)
  return positions.astype(jnp.int32), (found >= 0).astype(jnp.float32)


def distil(
  how: Virtual, network: Network, images: jax.Array, data: Batch, key: Key, steps: int, num_classes: int
) -> jax.Array:
  """Images after some steps of distribution matching (`dm`) with the client's real ones, and with a fresh momentum.

  Args:
    how: batch, rates and augmentation.
    network: `init` is asked for a network in every step: a random one, or always the same.
    images: `[C * ipc, ...]`, sorted by class.
    data: the client's examples.
    key: of all random numbers.
    steps: how many.
    num_classes: number of classes.

  Returns:
    The images `[C * ipc, ...]`.
  """
  if not steps:
    return images
  count = min(how.batch_real, data.y.shape[0])
  start = SyntheticSet(images, class_labels(num_classes, how.ipc), jnp.float32(1))
  method = dm(network, start, batch_real=count, image_lr=how.lr, image_momentum=how.momentum, siamese=how.siamese)

  def step(state, key: Key):
    key_draw, key_step = jax.random.split(key)
    positions, weight = draw_by_class(key_draw, data.y, data.weight, num_classes, count)
    state, _ = method.step(key_step, state, Batch(data.x[positions], data.y[positions], positions, weight))
    return state, None

  keys = jax.random.split(key, steps)
  return method.result(jax.lax.scan(step, method.init(key, None), keys)[0]).images


def always(network: Network, variables: Variables) -> Network:
  """The network, in which every draw gives the same variables."""
  return Network(lambda key: variables, network.apply)
