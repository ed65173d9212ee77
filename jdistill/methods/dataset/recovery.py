"""Recovery of images in blocks, one block after another: what SRe2L and its descendants share.

A block has an Adam and a learning rate of its own, so it is recovered as if it were alone.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import Metrics, PyTree
from jdistill.ops.ascent import global_norm
from jdistill.synthetic import SyntheticSet


class RecoveryState(NamedTuple):
  """What a resume needs.

  Attributes:
    images: `[blocks, block_size, height, width, channels]`: finished blocks, the current one, and those to come.
    labels: `[blocks, block_size, ...]` of these images.
    moments: `(first, second)` of Adam, of the current block.
    count: scalar int32, steps done.
    lr: of the initial set; not learned.
    carried: what else a method keeps: the teacher's parameters as DWA moved them for the current block, the votes of a
      committee; `()` for nothing.
  """

  images: jax.Array
  labels: jax.Array
  moments: tuple[jax.Array, jax.Array]
  count: jax.Array
  lr: jax.Array
  carried: PyTree = ()


class Rates(NamedTuple):
  """How images move.

  Attributes:
    iterations: updates per block.
    image_lr: falls to 0 along a half cosine over these.
    b1, b2: of Adam.
    pixel_range: lowest and highest value per channel in network space, `[channels]` each.
  """

  iterations: int
  image_lr: float
  b1: float
  b2: float
  pixel_range: tuple[jax.Array, jax.Array]


class BlockGradient(NamedTuple):
  """What a method finds for the current block.

  Attributes:
    images: the gradient in its images.
    metrics: scalars by name.
    carried: of the next state.
    mask: a factor on the update of the images that Adam makes of the gradient, of a shape that broadcasts to theirs.
      Where it is 0 a pixel stays as it is, whatever the moments.
  """

  images: jax.Array
  metrics: Metrics
  carried: PyTree
  mask: jax.Array | float = 1.0


def sre2l_blocks(labels: np.ndarray, block_size: int) -> np.ndarray:
  """Which images are recovered together: each block goes through the classes, the first image of every class first.

  Args:
    labels: `[m]` integer labels, or `[m, classes]` label logits.
    block_size: images per block; at most `m`.

  Returns:
    `[blocks, block_size]` int32 positions. Where `block_size` does not divide `m` the last block is filled up from the
    start; what becomes of these images is thrown away, as a smaller batch would have other statistics.
  """
  labels = np.asarray(labels)
  classes = labels.argmax(-1) if labels.ndim == 2 else labels
  rank = np.zeros(len(classes), np.int64)
  for c in np.unique(classes):
    own = np.flatnonzero(classes == c)
    rank[own] = np.arange(len(own))
  order = np.lexsort((classes, rank)).astype(np.int32)
  block_size = min(block_size, len(order))
  blocks = -(-len(order) // block_size)
  return np.resize(order, (blocks, block_size))


def start_blocks(initial: SyntheticSet, blocks: np.ndarray, params: PyTree) -> RecoveryState:
  """The state before the first step, whose arrays are its own."""
  images, labels = jnp.asarray(initial.images)[blocks], jnp.asarray(initial.labels)[blocks]
  moments = (jnp.zeros_like(images[0]), jnp.zeros_like(images[0]))
  lr, adjusted = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), (initial.lr, params))
  return RecoveryState(images, labels, moments, jnp.zeros((), jnp.int32), lr, adjusted)


def collect_blocks(state: RecoveryState, *, blocks: np.ndarray) -> SyntheticSet:
  """The images in the order of the initial set."""
  _, own = np.unique(blocks.reshape(-1), return_index=True)  # an image that fills up a block lies in an earlier one
  flat = lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[own]  # noqa: E731
  return SyntheticSet(flat(state.images), flat(state.labels), state.lr)


def descend(
  state: RecoveryState,
  gradient: Callable[[jax.Array, jax.Array, jax.Array, jax.Array], BlockGradient],
  rates: Rates,
) -> tuple[RecoveryState, Metrics]:
  """One update of the images of the block whose turn it is; after the last block nothing moves.

  Args:
    state: before.
    gradient: `(number of the block, updates it has had, images, labels) -> BlockGradient`.
    rates: see `Rates`.
  """
  number, place = state.count // rates.iterations, state.count % rates.iterations
  active = number < len(state.images)
  number = jnp.minimum(number, len(state.images) - 1)
  low, high = (jnp.asarray(bound).reshape(1, 1, 1, -1) for bound in rates.pixel_range)
  x = state.images[number]
  found = gradient(number, place, x, state.labels[number])
  moments = jax.tree.map(lambda moment: jnp.where(place == 0, jnp.zeros_like(moment), moment), state.moments)
  change, moments = adam_direction(found.images, moments, place + 1, rates.b1, rates.b2)
  rate = rates.image_lr * half_cosine(place, rates.iterations).astype(x.dtype)
  moved = jnp.where(active, jnp.clip(x - rate * found.mask * change, low, high), x)
  metrics = found.metrics | {"gradient/images": global_norm(found.images), "recover/lr": rate}
  images = state.images.at[number].set(moved)
  return RecoveryState(images, state.labels, moments, state.count + 1, state.lr, found.carried), metrics


def adam_direction(
  grad: jax.Array, moments: tuple[jax.Array, jax.Array], count: jax.Array, b1: float, b2: float
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  """Adam's direction and new moments at its step number `count`, from 1; by hand, as it starts again with a block."""
  first, second = b1 * moments[0] + (1 - b1) * grad, b2 * moments[1] + (1 - b2) * jnp.square(grad)
  count = count.astype(grad.dtype)
  debiased = first / (1 - jnp.power(jnp.asarray(b1, grad.dtype), count))
  scale = jnp.sqrt(second / (1 - jnp.power(jnp.asarray(b2, grad.dtype), count))) + 1e-8
  return debiased / scale, (first, second)


def half_cosine(count: jax.Array, steps: int) -> jax.Array:
  """The factor of a rate that falls from 1 at `count` 0 to 0 at `steps`: `(1 + cos(pi count / steps)) / 2`."""
  return 0.5 * (1 + jnp.cos(jnp.pi * count.astype(jnp.float32) / steps))
