"""Distribution matching: synthetic images whose embeddings have the class means of real ones, in random networks."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jdistill.base import Apply, Augmentation, Batch, Key, Method, Metrics, Network, Variables
from jdistill.losses import distribution_matching
from jdistill.methods.dataset.by_class import augmented, check_batch, check_groups, check_labels, over_classes
from jdistill.methods.roles import Role, init_roles, update_roles
from jdistill.schema import Count, Positive, Share, validated
from jdistill.synthetic import SyntheticSet


class DMState(NamedTuple):
  """What a resume needs.

  Attributes:
    roles: `images`.
    labels, lr: of the initial set; neither is learned.
  """

  roles: dict[str, Role]
  labels: jax.Array
  lr: jax.Array


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
  num_classes = check_labels("dm", initial.labels)
  check_groups("dm", network, num_classes, classes_at_once)
  optimizers = {"images": optax.sgd(image_lr, image_momentum or None)}
  image_shape = initial.images.shape[1:]

  def init(key: Key, example: Batch) -> DMState:
    del key, example
    images, labels, lr = (jnp.array(leaf, copy=True) for leaf in initial)  # the loop donates its state
    return DMState(init_roles(optimizers, {"images": images}), labels, lr)

  def step(key: Key, state: DMState, batch: Batch) -> tuple[DMState, Metrics]:
    check_batch("dm", batch, num_classes, batch_real, image_shape)
    key_network, key_augment = jax.random.split(key)
    gradient = _gradient(network.apply, network.init(key_network), siamese)
    images = state.roles["images"].params
    by_class = images.reshape(num_classes, -1, *image_shape)
    rows = (by_class, batch.x, batch.weight, jax.random.split(key_augment, num_classes))
    value, grads = over_classes(gradient, rows, classes_at_once)
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
    images = augmented(augment, keys, images)
    out = apply(variables.params, images.reshape(-1, *images.shape[2:]), train=True, stats=variables.stats)
    return out.embedding.reshape(*images.shape[:2], -1)

  def gradient(rows: tuple) -> tuple[jax.Array, jax.Array]:
    images, real, weight, keys = rows
    wanted = jax.lax.stop_gradient(embed(real, keys))
    return jax.value_and_grad(lambda x: distribution_matching(wanted, embed(x, keys), real_weight=weight))(images)

  return gradient
