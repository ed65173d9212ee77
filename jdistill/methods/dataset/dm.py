"""Distribution matching: synthetic images whose embeddings have the class means of real ones, in random networks."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jdistill.base import Apply, Augmentation, Batch, Key, Method, Metrics, Network, UserError, Variables
from jdistill.losses import distribution_matching
from jdistill.methods.roles import Role, init_roles, update_roles
from jdistill.schema import Count, Positive, Share, validated
from jdistill.synthetic import Feed, Materials, SyntheticSet


class DMState(NamedTuple):
  """What a resume needs.

  Attributes:
    roles: `images`.
    labels, lr: of the initial set; neither is learned.
  """

  roles: dict[str, Role]
  labels: jax.Array
  lr: jax.Array


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
  """The stream of `dm`: in every step, some real images of each class (`class_batches`).

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


@validated("method")
def dm(
  network: Network,
  initial: SyntheticSet,
  *,
  batch_real: Count = 256,
  image_lr: Positive = 1.0,
  image_momentum: Share = 0.5,
  classes_at_once: Count | None = None,
  siamese: Augmentation | None = None,
) -> Method:
  """Builds distribution matching (DM).

  One step draws a network at random, shows it real and synthetic images of every class, and moves the synthetic ones
  along the gradient of

      sum_c || mean_b f(a_c(real[c, b])) - mean_i f(a_c(synthetic[c, i])) ||^2

  with `f` what enters the network's head (`Outputs.embedding`; of a ConvNet the last block's flattened output) and
  `a_c` one draw of the augmentation for all images of a class. Networks are in training mode: those with batch norm
  normalise all real images of a step together, and all synthetic ones.

  Args:
    network: drawn anew in every step.
    initial: the starting set, equally many images per class, sorted by class.
    batch_real: the most real images per class and step that the stream may give.
    image_lr, image_momentum: SGD on images.
    classes_at_once: classes that pass through the network together, for less memory; must divide the number of classes.
      `None` takes all, which networks with batch norm need.
    siamese: an augmentation that is shared by the images of a batch, such as `jdistill.augment.dsa(siamese=True)`: the
      same key must give the same transformation for any number of images. `None` for none.

  Returns:
    A `Method` whose stream is made of `Batch`es of real images, `x` `[C, b, height, width, channels]` with `weight`
    `[C, b]` or `None` (see `class_batches`), and whose result is a `SyntheticSet` with the initial labels and rate.

  Raises:
    ValueError: labels that are not sorted by class with equally many of each; `classes_at_once` with batch norm, or
      one that does not divide; at trace time, a stream of other classes or more images than `batch_real`.

  References:
    Zhao and Bilen, "Dataset Condensation with Distribution Matching" (arXiv 2110.04181), alg. 1.
  """
  num_classes = _check_labels(initial.labels)
  _check_groups(network, num_classes, classes_at_once)
  optimizers = {"images": optax.sgd(image_lr, image_momentum or None)}
  image_shape = initial.images.shape[1:]

  def init(key: Key, example: Batch) -> DMState:
    del key, example
    images, labels, lr = (jnp.array(leaf, copy=True) for leaf in initial)  # the loop donates its state
    return DMState(init_roles(optimizers, {"images": images}), labels, lr)

  def step(key: Key, state: DMState, batch: Batch) -> tuple[DMState, Metrics]:
    _check_batch(batch, num_classes, batch_real, image_shape)
    key_network, key_augment = jax.random.split(key)
    gradient = _gradient(network.apply, network.init(key_network), siamese)
    images = state.roles["images"].params
    by_class = images.reshape(num_classes, -1, *image_shape)
    rows = (by_class, batch.x, batch.weight, jax.random.split(key_augment, num_classes))
    if classes_at_once is None:
      value, grads = gradient(rows)
    else:
      groups = jax.tree.map(lambda leaf: leaf.reshape(-1, classes_at_once, *leaf.shape[1:]), rows)
      values, grads = jax.lax.map(gradient, groups)
      value = jnp.sum(values)
    grads = grads.reshape(images.shape)
    roles = update_roles(optimizers, state.roles, {"images": grads})
    metrics = {"match/loss": value, "gradient/images": jnp.sqrt(jnp.sum(jnp.square(grads)))}
    return state._replace(roles=roles), metrics

  def result(state: DMState) -> SyntheticSet:
    return SyntheticSet(state.roles["images"].params, state.labels, state.lr)

  return Method(init, step, result)


def _gradient(apply: Apply, variables: Variables, augment: Augmentation | None) -> Callable:
  """`(images [c, ipc, ...], real [c, b, ...], weight [c, b] or None, keys [c]) -> (loss, its gradient)` in `images`."""

  def embed(images: jax.Array, keys: Key) -> jax.Array:
    """`[c, n, ...] -> [c, n, F]`"""
    shape = images.shape[1:]
    if augment is not None:
      # a loop over classes: operators chosen under `vmap` would all be computed
      images = jax.lax.map(lambda row: augment.apply(augment.sample(row[1], shape), row[0]), (images, keys))
    out = apply(variables.params, images.reshape(-1, *shape[1:]), train=True, stats=variables.stats)
    return out.embedding.reshape(*images.shape[:2], -1)

  def gradient(rows: tuple) -> tuple[jax.Array, jax.Array]:
    images, real, weight, keys = rows
    wanted = jax.lax.stop_gradient(embed(real, keys))
    return jax.value_and_grad(lambda x: distribution_matching(wanted, embed(x, keys), real_weight=weight))(images)

  return gradient


def _check_labels(labels: jax.Array) -> int:
  """The number of classes."""
  labels = np.asarray(labels)
  classes = labels.argmax(-1) if labels.ndim == 2 else labels
  count = labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1
  ipc, rest = divmod(len(classes), count)
  if rest or not np.array_equal(classes, np.repeat(np.arange(count), ipc)):
    raise ValueError(f"dm: the initial labels must be sorted by class with equally many of each of {count} classes")
  return count


def _check_groups(network: Network, num_classes: int, classes_at_once: int | None) -> None:
  if classes_at_once is None:
    return
  if num_classes % classes_at_once:
    raise ValueError(f"dm: classes_at_once={classes_at_once} does not divide {num_classes} classes; give a divisor")
  if jax.tree.leaves(jax.eval_shape(network.init, jax.random.key(0)).stats):
    raise ValueError(
      f"dm: classes_at_once={classes_at_once}: batch norm needs all classes together; leave it out, or take a network "
      "without batch norm"
    )


def _check_batch(batch: Batch, num_classes: int, batch_real: int, image_shape: tuple[int, ...]) -> None:
  shape = batch.x.shape
  if shape[0] != num_classes or shape[2:] != image_shape or shape[1] > batch_real:
    raise ValueError(
      f"dm: real images {shape}; the set asks for ({num_classes}, at most batch_real={batch_real}, *{image_shape})"
    )
