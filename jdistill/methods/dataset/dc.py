"""Gradient matching: synthetic images that give a network the gradients which real images of their class give it.

Paper symbol -> name here: T -> `outer_loop`, zeta_theta -> `inner_epochs`, eta_S -> `image_lr`, eta_theta -> `net_lr`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jdistill.augment import identity, repeat, show
from jdistill.base import Apply, Augmentation, Batch, Key, Method, Metrics, Network, Variables, View
from jdistill.losses import cross_entropy, gradient_matching, soft_cross_entropy
from jdistill.losses.gradient import Distance
from jdistill.methods.dataset.batches import augmented_batches, seen
from jdistill.methods.dataset.by_class import (
  augmented,
  check_batch,
  check_divisor,
  check_labels,
  over_classes,
  together,
)
from jdistill.methods.roles import Role, init_roles, update_roles
from jdistill.schema import Count, Positive, Share, validated
from jdistill.synthetic import SyntheticSet


class DCState(NamedTuple):
  """What a resume needs.

  Attributes:
    roles: `images`.
    labels, lr: of the initial set; neither is learned.
    network: the one that is trained on the set between updates; `None` where each update draws its own.
    updates: how often the set was updated since the network was drawn, below `outer_loop`.
  """

  roles: dict[str, Role]
  labels: jax.Array
  lr: jax.Array
  network: Variables | None
  updates: jax.Array


@validated("method")
def dc(
  network: Network,
  initial: SyntheticSet,
  *,
  batch_real: Count = 256,
  outer_loop: Count = 1,
  inner_epochs: Count = 1,
  distance: Distance = "layerwise_cosine",
  image_lr: Positive = 0.1,
  image_momentum: Share = 0.5,
  net_lr: Positive = 0.01,
  net_batch_size: Count = 256,
  norm_images: Count = 16,
  classes_at_once: Count | None = None,
  siamese: Augmentation | None = None,
  augment: Augmentation | None = None,
  view: View | None = None,
) -> Method:
  """Builds gradient matching (DC), and with an augmentation DSA.

  A network is drawn at random for every `outer_loop` steps. One step moves the images along the gradient of

      sum_c D(grad_theta mean_i CE(a_c(synthetic[c, i])), grad_theta mean_b CE(a_c(real[c, b])))

  with `D` of `jdistill.losses.gradient_matching`, and `a_c` one draw of the augmentation for all images of a class.
  Then, unless the next step draws another network, the present one is trained on the set for `inner_epochs`, by SGD
  without momentum, each image under a draw of its own.

  Batch norm sees some real images of all classes in training mode first, and normalises by its running statistics
  while gradients are matched.

  Args:
    network: drawn anew for every `outer_loop` steps.
    initial: the starting set, equally many images per class, sorted by class.
    batch_real: the most real images per class and step that the stream may give.
    outer_loop: updates of the set for each network.
    inner_epochs: passes over the set by which the network is trained between two updates.
    distance: between gradients. `"layerwise_cosine"` is the paper's.
    image_lr, image_momentum: SGD on images.
    net_lr: SGD on the network.
    net_batch_size: synthetic images per step of the network's training.
    norm_images: real images per class that batch norm sees; networks without it have no use for them.
    classes_at_once: classes whose gradients are taken together, for less memory; must divide the number of classes.
      `None` takes all, or on a CPU as many as it is fastest with.
    siamese: an augmentation that is shared by the images of a batch (see `dm`). `None` for none.
    augment: the augmentation of the network's training. `None` for none.
    view: what the network is shown, and trained on, in the place of each synthetic image; `net_batch_size` counts
      images. `None` for the images themselves.

  Returns:
    A `Method` whose stream is made of `Batch`es of real images, `x` `[C, b, height, width, channels]` with `weight`
    `[C, b]` or `None` (see `class_batches`), and whose result is a `SyntheticSet` with the initial labels and rate.

  Raises:
    ValueError: labels that are not sorted by class with equally many of each; `classes_at_once` that does not divide;
      at trace time, a stream of other classes or more images than `batch_real`.

  References:
    Zhao, Mopuri and Bilen, "Dataset Condensation with Gradient Matching" (DC, arXiv 2006.05929), alg. 1; Zhao and
    Bilen, "Dataset Condensation with Differentiable Siamese Augmentation" (DSA, arXiv 2102.08259), alg. 1.
  """
  num_classes = check_labels("dc", initial.labels)
  check_divisor("dc", num_classes, classes_at_once)
  optimizers = {"images": optax.sgd(image_lr, image_momentum or None)}
  image_shape = initial.images.shape[1:]

  def init(key: Key, example: Batch) -> DCState:
    del example
    images, labels, lr = (jnp.array(leaf, copy=True) for leaf in initial[:3])  # the loop donates its state
    shapes = jax.eval_shape(network.init, key)
    none = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes) if outer_loop > 1 else None
    return DCState(init_roles(optimizers, {"images": images}), labels, lr, none, jnp.zeros((), jnp.int32))

  def step(key: Key, state: DCState, batch: Batch) -> tuple[DCState, Metrics]:
    check_batch("dc", batch, num_classes, batch_real, image_shape)
    key_network, key_augment, key_norm, key_train = jax.random.split(key, 4)
    variables = network.init(key_network)
    if outer_loop > 1:
      variables = jax.tree.map(lambda new, old: jnp.where(state.updates == 0, new, old), variables, state.network)
    variables = _show(network.apply, variables, batch.x, key_norm, norm_images)
    images = state.roles["images"].params
    by_class = (leaf.reshape(num_classes, -1, *leaf.shape[1:]) for leaf in (images, state.labels))
    classes, keys = jnp.arange(num_classes, dtype=jnp.int32), jax.random.split(key_augment, num_classes)
    rows = (*by_class, batch.x, classes, batch.weight, keys)
    gradient = _gradient(network.apply, variables, siamese, view, distance)
    value, grads = over_classes(gradient, rows, together(network, batch.x, classes_at_once))
    grads = grads.reshape(images.shape)
    roles = update_roles(optimizers, state.roles, {"images": grads})
    updates = (state.updates + 1) % outer_loop
    if outer_loop > 1:
      train = _training(network.apply, augment or identity(), view, net_lr, net_batch_size, inner_epochs)
      changed = (key_train, roles["images"].params, state.labels)
      variables = jax.lax.cond(updates > 0, lambda v: train(v, *changed), lambda v: v, variables)
    metrics = {"match/loss": value, "gradient/images": jnp.sqrt(jnp.sum(jnp.square(grads)))}
    return DCState(roles, state.labels, state.lr, variables if outer_loop > 1 else None, updates), metrics

  def result(state: DCState) -> SyntheticSet:
    return SyntheticSet(state.roles["images"].params, state.labels, state.lr)

  return Method(init, step, result)


def _losses(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Cross entropies `[n]` with integers `[n]` or label logits `[n, classes]`."""
  return (cross_entropy if labels.ndim == 1 else soft_cross_entropy)(logits, labels)


def _show(apply: Apply, variables: Variables, real: jax.Array, key: Key, count: int) -> Variables:
  """The network after batch norm has seen `count` of the real images `[C, b, ...]` of each class."""
  if not jax.tree.leaves(variables.stats):
    return variables
  # the stream's order is not random: small positions come first more often
  shown = jax.random.permutation(key, real.shape[1])[:count]
  images = real[:, shown].reshape(-1, *real.shape[2:])
  return variables._replace(stats=apply(variables.params, images, train=True, stats=variables.stats).stats)


def _gradient(
  apply: Apply, variables: Variables, augment: Augmentation | None, view: View | None, distance: Distance
) -> Callable:
  """`(images [c, ipc, ...], labels [c, ipc, ...], real [c, b, ...], classes [c], weight [c, b] or None, keys [c]) ->
  (loss, its gradient)` in `images`."""

  def mean_loss(params, images, labels, weight):
    values = _losses(apply(params, images, train=False, stats=variables.stats).logits, labels)
    return jnp.mean(values) if weight is None else jnp.sum(weight.astype(values.dtype) * values) / jnp.sum(weight)

  def gradients(images, labels, weight=None):
    """For each class, in the parameters."""
    at = (None, 0, 0, None if weight is None else 0)
    return jax.vmap(jax.grad(mean_loss), at)(variables.params, images, labels, weight)

  def gradient(rows: tuple) -> tuple[jax.Array, jax.Array]:
    images, labels, real, classes, weight, keys = rows
    own = jnp.broadcast_to(classes[:, None], real.shape[:2])
    wanted = jax.lax.stop_gradient(gradients(augmented(augment, keys, real), own, weight))

    def loss(images):
      found = gradients(augmented(augment, keys, show(view, images)), repeat(view, labels, axis=1))
      return jnp.sum(jax.vmap(lambda s, r: gradient_matching(s, r, distance=distance))(found, wanted))

    return jax.value_and_grad(loss)(images)

  return gradient


def _training(
  apply: Apply, augment: Augmentation, view: View | None, lr: float, batch_size: int, epochs: int
) -> Callable:
  """`(variables, key, images, labels) -> variables` after `epochs` of SGD on the mean cross entropy of each batch.

  With batch norm the rows that fill up an incomplete batch count in its moments.
  """

  def loss(params, stats, images, labels, row):
    images, labels, weight = seen(view, augment, images, labels, row)
    out = apply(params, images, train=True, stats=stats)
    return jnp.sum(weight.astype(out.logits.dtype) * _losses(out.logits, labels)), out.stats

  def train(variables: Variables, key: Key, images: jax.Array, labels: jax.Array) -> Variables:
    steps = epochs * -(-len(images) // batch_size)
    drawn = augmented_batches(key, augment, images.shape, batch_size, steps, view)

    def step(now: Variables, batch: tuple):
      index, row = batch
      grads, stats = jax.grad(loss, has_aux=True)(now.params, now.stats, images[index], labels[index], row)
      return Variables(jax.tree.map(lambda p, g: p - lr * g, now.params, grads), stats), None

    return jax.lax.scan(step, variables, drawn)[0]

  return train
