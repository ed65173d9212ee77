"""Methods that compare real and synthetic images class by class: the stream of their steps, groups, and checks."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import Augmentation, Batch, Key, Network, PyTree, UserError
from jdistill.ops.rows import for_cpu, largest_divisor, largest_map
from jdistill.schema import Count
from jdistill.synthetic import Feed, Materials

_GROUP_BYTES = 2**26  # of the largest map of all real images that pass through a network at once


def class_batches(
  labels: np.ndarray, batch_real: int, seed: int, *, num_classes: int | None = None
) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
  """The real images of every step: for each class some of its images without repetition, fresh in every step.

  Args:
    labels: `[n]` integer labels of the real images.
    batch_real: images per class; at most the size of the largest class are given.
    seed: of the draws.
    num_classes: number of classes; `max(labels) + 1` if `None`.

  Returns:
    `step -> (positions [C, b] int32, weight [C, b] float32)`, a function of the seed and the step alone. A class with
    fewer than `b` images is given whole, filled up with its first image at weight zero.

  Raises:
    UserError: a class has no image.
  """
  labels = np.asarray(labels)
  members = [np.flatnonzero(labels == c) for c in range(num_classes or int(labels.max()) + 1)]
  empty = [c for c, own in enumerate(members) if not len(own)]
  if empty:
    raise UserError(f"labels: no image of class {empty[0]}; give real images of every class, or fewer classes")
  width = min(batch_real, max(map(len, members)))
  counts = np.int32([min(width, len(own)) for own in members])
  weight = (np.arange(width)[None] < counts[:, None]).astype(np.float32)

  def draw(step: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng((seed, step))
    positions = np.stack([np.full(width, own[0], np.int32) for own in members])
    for row, own, count in zip(positions, members, counts, strict=True):
      row[:count] = rng.choice(own, count, replace=False, shuffle=False)
    return positions, weight

  return draw


def real_batches(*, batch_real: Count = 256) -> Feed:
  """The stream of `dm` and its like: in every step, some real images of each class (`class_batches`).

  Args:
    batch_real: images per class.
  """

  def stream(found: Materials) -> Callable[[int], Batch]:
    draw = class_batches(found.y, batch_real, found.seed, num_classes=found.num_classes)

    def batch(step: int) -> Batch:
      positions, weight = draw(step)
      return Batch(found.x[positions], found.y[positions], positions, weight)

    return batch

  def example(found: Materials) -> Batch:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), stream(found)(0))

  return Feed(stream, example)


def over_classes(
  gradient: Callable[[PyTree], tuple[PyTree, jax.Array]], rows: PyTree, classes_at_once: int | None
) -> tuple[PyTree, jax.Array]:
  """A loss that is a sum over classes, with its gradient in their images, a group of classes at a time.

  Args:
    gradient: `(rows of some classes) -> (loss, gradient [c, ipc, ...])`. In the place of the loss may be a pytree of
      whatever else is a sum over classes, such as a gradient in what they share.
    rows: a pytree whose leaves have classes on the first axis.
    classes_at_once: a divisor of their number; `None` for all.

  Returns:
    The loss of all classes, and its gradient `[C, ipc, ...]`.
  """
  if classes_at_once is None:
    return gradient(rows)
  groups = jax.tree.map(lambda leaf: leaf.reshape(-1, classes_at_once, *leaf.shape[1:]), rows)
  values, grads = jax.lax.map(gradient, groups)
  sums = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), values)
  return sums, grads.reshape(-1, *grads.shape[2:])


def together(network: Network, real: jax.Array, classes_at_once: int | None) -> int | None:
  """How many classes pass through a network at once: those that are asked for, or what a CPU is fastest with.

  Fresh memory costs a CPU as much as the layers that write to it, and maps of many classes need it anew in every step;
  those of a few use the same again. Batch norm needs all classes, and accelerators want them.

  Args:
    network: what shows them.
    real: `[C, b, height, width, channels]`.
    classes_at_once: a divisor of `C`, or `None`.

  Returns:
    A divisor, or `None` for all.
  """
  shapes = jax.eval_shape(network.init, jax.random.key(0))
  if classes_at_once is not None or not for_cpu() or jax.tree.leaves(shapes.stats):
    return classes_at_once
  classes, rows = real.shape[:2]
  largest = largest_map(network.apply, shapes.params, real.shape[2:])
  count = largest_divisor(classes, max(1, _GROUP_BYTES // (rows * largest)))
  return None if count == classes else count


def augmented(augment: Augmentation | None, keys: Key, images: jax.Array) -> jax.Array:
  """Images `[c, n, ...]`, each class after its own draw; `keys` are `[c]`, `None` leaves all as they are."""
  if augment is None:
    return images
  # a loop over classes: operators chosen under `vmap` would all be computed
  return jax.lax.map(lambda row: augment.apply(augment.sample(row[1], row[0].shape), row[0]), (images, keys))


def check_labels(name: str, labels: jax.Array) -> int:
  """The number of classes of a set.

  Raises:
    ValueError: labels that are not sorted by class with equally many of each.
  """
  labels = np.asarray(labels)
  classes = labels.argmax(-1) if labels.ndim == 2 else labels
  count = labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1
  ipc, rest = divmod(len(classes), count)
  if rest or not np.array_equal(classes, np.repeat(np.arange(count), ipc)):
    raise ValueError(f"{name}: the initial labels must be sorted by class with equally many of each of {count} classes")
  return count


def check_groups(name: str, network: Network, num_classes: int, classes_at_once: int | None) -> None:
  """Refuses groups of classes that are not equal, and any where batch norm looks at all classes together.

  Raises:
    ValueError: of either.
  """
  check_divisor(name, num_classes, classes_at_once)
  if classes_at_once is not None and jax.tree.leaves(jax.eval_shape(network.init, jax.random.key(0)).stats):
    raise ValueError(
      f"{name}: classes_at_once={classes_at_once}: batch norm needs all classes together; leave it out, or take a "
      "network without batch norm"
    )


def check_divisor(name: str, num_classes: int, classes_at_once: int | None) -> None:
  """Refuses groups of classes that are not equal.

  Raises:
    ValueError: of these.
  """
  if classes_at_once is not None and num_classes % classes_at_once:
    raise ValueError(f"{name}: classes_at_once={classes_at_once} does not divide {num_classes} classes; give a divisor")


def check_batch(name: str, batch: Batch, num_classes: int, batch_real: int, image_shape: tuple[int, ...]) -> None:
  """Refuses a stream whose real images are not those that a set asks for.

  Raises:
    ValueError: of other classes or pixels, or with more images than `batch_real`.
  """
  shape = batch.x.shape
  if shape[0] != num_classes or shape[2:] != image_shape or shape[1] > batch_real:
    raise ValueError(
      f"{name}: real images {shape}; the set asks for ({num_classes}, at most batch_real={batch_real}, *{image_shape})"
    )
