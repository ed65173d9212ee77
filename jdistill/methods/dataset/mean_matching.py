"""What methods share that compare class means of outputs of random networks: one step, whatever they compare."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jdistill.augment import show
from jdistill.base import Apply, Augmentation, Batch, Key, Method, Metrics, Network, Outputs, Variables, View
from jdistill.methods.dataset.by_class import (
  augmented,
  check_batch,
  check_groups,
  check_labels,
  over_classes,
  together,
)
from jdistill.methods.roles import Role, init_roles, update_roles
from jdistill.synthetic import SyntheticSet

Compare = Callable[[Outputs, Outputs, jax.Array | None], jax.Array]


class MatchingState(NamedTuple):
  """What a resume needs.

  Attributes:
    roles: `images`.
    labels, lr: of the initial set; neither is learned.
  """

  roles: dict[str, Role]
  labels: jax.Array
  lr: jax.Array


def mean_matching(
  name: str,
  network: Network,
  initial: SyntheticSet,
  compare: Compare,
  *,
  batch_real: int,
  image_lr: float,
  image_momentum: float,
  classes_at_once: int | None,
  siamese: Augmentation | None,
  view: View | None,
) -> Method:
  """A method each of whose steps draws a network and moves the images along the gradient of a sum over classes.

  Args:
    name: of the method, for messages.
    compare: `(real, synthetic, weight [c, b] or None) -> loss`, summed over classes. Embedding, logits and taps of both
      sides have the axes `[c, n, ...]`; the synthetic side's taps are in the network's order. Nothing of the real side
      has a gradient.
    network, initial, batch_real, image_lr, image_momentum, classes_at_once, siamese, view: as for `dm`.

  Raises:
    ValueError: as `dm`.
  """
  num_classes = check_labels(name, initial.labels)
  check_groups(name, network, num_classes, classes_at_once)
  optimizers = {"images": optax.sgd(image_lr, image_momentum or None)}
  image_shape = initial.images.shape[1:]

  def init(key: Key, example: Batch) -> MatchingState:
    del key, example
    images, labels, lr = (jnp.array(leaf, copy=True) for leaf in initial[:3])  # the loop donates its state
    return MatchingState(init_roles(optimizers, {"images": images}), labels, lr)

  def step(key: Key, state: MatchingState, batch: Batch) -> tuple[MatchingState, Metrics]:
    check_batch(name, batch, num_classes, batch_real, image_shape)
    key_network, key_augment = jax.random.split(key)
    gradient = _gradient(network.apply, network.init(key_network), siamese, view, compare)
    images = state.roles["images"].params
    by_class = images.reshape(num_classes, -1, *image_shape)
    rows = (by_class, batch.x, batch.weight, jax.random.split(key_augment, num_classes))
    value, grads = over_classes(gradient, rows, together(network, batch.x, classes_at_once))
    grads = grads.reshape(images.shape)
    roles = update_roles(optimizers, state.roles, {"images": grads})
    metrics = {"match/loss": value, "gradient/images": jnp.sqrt(jnp.sum(jnp.square(grads)))}
    return state._replace(roles=roles), metrics

  def result(state: MatchingState) -> SyntheticSet:
    return SyntheticSet(state.roles["images"].params, state.labels, state.lr)

  return Method(init, step, result)


def _gradient(
  apply: Apply, variables: Variables, augment: Augmentation | None, view: View | None, compare: Compare
) -> Callable:
  """`(images [c, ipc, ...], real [c, b, ...], weight [c, b] or None, keys [c]) -> (loss, its gradient)` in `images`."""

  def outputs(images: jax.Array, keys: Key) -> Outputs:
    """`[c, n, ...] ->` what `compare` looks at."""
    images = augmented(augment, keys, images)
    count = images.shape[:2]
    out = apply(variables.params, images.reshape(-1, *images.shape[2:]), train=True, stats=variables.stats)
    taps = {name: tap.reshape(*count, *tap.shape[1:]) for name, tap in out.taps.items()}  # in the network's order
    return Outputs(out.logits.reshape(*count, -1), out.embedding.reshape(*count, -1), taps)

  def gradient(rows: tuple) -> tuple[jax.Array, jax.Array]:
    images, real, weight, keys = rows
    wanted = jax.lax.stop_gradient(outputs(real, keys))
    return jax.value_and_grad(lambda x: compare(wanted, outputs(show(view, x), keys), weight))(images)

  return gradient
