"""Local-global distillation: clients train on virtual images, and on a set that the server distils from updates.

Paper symbol -> name here: tau -> `refresh_every`, lambda -> `align_weight`, the global virtual data -> anchors.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from jdistill.base import Augmentation, Batch, Key, Metrics, Network, Outputs, Variables
from jdistill.federated import Federation, pseudo_gradient
from jdistill.losses import cross_entropy, gradient_matching, mean_distance, rbf_mmd, supervised_contrastive
from jdistill.losses.gradient import Distance
from jdistill.methods.federated.rounds import Anchors, Local, federation
from jdistill.methods.federated.virtual import Virtual, always, class_labels, distil, normal_images
from jdistill.methods.roles import init_roles, update_roles
from jdistill.schema import Count, NonNegative, Positive, Share, Size, validated


@validated("method")
def fedlgd(
  network: Network,
  num_classes: int,
  image_shape: tuple[int, ...],
  *,
  local_epochs: Count = 1,
  local_batch: Count = 32,
  lr: Positive = 0.01,
  average: Literal["uniform", "examples"] = "uniform",
  local_norm: bool = False,
  virtual_ipc: Count = 50,
  warmup_steps: Size = 10000,
  batch_real: Count = 256,
  image_lr: Positive = 1.0,
  image_momentum: Share = 0.5,
  refresh_every: Count = 5,
  refreshes: Size = 10,
  refresh_steps: Size = 100,
  anchor_ipc: Size = 10,
  anchor_steps: Size = 500,
  anchor_lr: Positive = 1.0,
  anchor_momentum: Share = 0.5,
  distance: Distance = "layerwise_cosine",
  alignment: Literal["contrastive", "mmd", "l2"] = "contrastive",
  align_weight: NonNegative = 1.0,
  temperature: Positive = 0.07,
  siamese: Augmentation | None = None,
) -> Federation:
  """Builds federated learning on virtual data with local and global distillation (FedLGD).

  Before the first round every client distils virtual images from its own by distribution matching in random networks
  (`dm`); they start as normal noise with the moments of each class and channel, and the server's anchors with the means
  of these moments over clients. Round `r` (from 0) is, with `due` for `r % refresh_every == 0` and `r <= refresh_every
  * refreshes`:

  1. if due and `r > 0`, clients go on distilling for `refresh_steps`, in the global network as it is;
  2. clients take SGD steps from the global network on their virtual images together with the anchors, along

         CE + [not due] align_weight * alignment(features of the batch, features of the anchors)

  3. the server averages what they end with;
  4. if due, the server moves the anchors by `anchor_steps` of SGD on

         D( grad_theta mean CE(theta_before; anchors), G ),    G = (theta_before - theta_after) / lr

     with `D` of `jdistill.losses.gradient_matching`: `G` is the sum of the gradients of the clients' steps.

  Args:
    network: the one that is learned.
    num_classes: number of classes.
    image_shape: `(height, width, channels)`.
    local_epochs, local_batch, lr: SGD without momentum on a client; with momentum `G` would be no sum of gradients.
    average: over clients, `"uniform"` as in the release, or by `"examples"`.
    local_norm: normalisation layers stay with the clients (FedBN; the release's mode `fedbn`).
    virtual_ipc: virtual images per class of a client.
    warmup_steps: steps of distribution matching before the first round.
    batch_real: real images per class and step of it.
    image_lr, image_momentum: SGD on virtual images; every call starts without momentum.
    refresh_every, refreshes: which rounds are due.
    refresh_steps: of a client in a due round; 0 leaves its virtual images as they are.
    anchor_ipc: images per class of the server; 0 for no anchors, and so no alignment.
    anchor_steps, anchor_lr, anchor_momentum: SGD on them in a due round.
    distance: between gradients. A row of `"layerwise_cosine"` does not depend on the scale of `G`.
    alignment: `"contrastive"`, the mean of `supervised_contrastive` over the batch and the anchors together; `"mmd"`,
      the squared discrepancy of their features; `"l2"`, the distance of their mean features (which mean the release
      takes is unverified).
    align_weight: 1, and 10 for the digits of the paper; 0 leaves the term out.
    temperature: of the contrast.
    siamese: an augmentation of real and virtual images with one draw for both; `None` for none.

  Returns:
    A `Federation`.

  Raises:
    ValueError: `local_norm` of a network without normalisation layers that have parameters.

  References:
    Huang et al., "Federated Learning on Virtual Heterogeneous Data with Local-Global Distillation" (arXiv 2303.02278),
    alg. 1. Differs from the release in dividing a class's channel sums by the pixels of the class.
  """
  virtual = Virtual(virtual_ipc, warmup_steps, batch_real, image_lr, image_momentum, siamese)
  due = lambda number: (number % refresh_every == 0) & (number <= refresh_every * refreshes)  # noqa: E731
  labels = jnp.asarray(class_labels(num_classes, anchor_ipc))

  def begin(key: Key, reports) -> jax.Array:
    mean, deviation = (jnp.mean(reports[name], axis=0) for name in ("mean", "deviation"))
    return normal_images(key, mean, deviation, anchor_ipc, image_shape)

  pull = _alignment(alignment, temperature, labels)

  def weighted(out: Outputs, y: jax.Array, where: jax.Array, anchors: Outputs, number: jax.Array) -> jax.Array:
    return jnp.where(due(number), 0.0, align_weight) * pull(out.embedding, y, where, anchors.embedding)

  moves = _anchor_moves(network, labels, distance, lr, anchor_lr, anchor_momentum, anchor_steps)

  def update(key: Key, images: jax.Array, number: jax.Array, before: Variables, after: Variables):
    del key
    return jax.lax.cond(due(number), moves, lambda images, *_: (images, _no_match()), images, before, after)

  return federation(
    "fedlgd",
    network,
    num_classes,
    Local(local_epochs, local_batch, lr),
    virtual=virtual,
    by_examples=average == "examples",
    local_norm=local_norm,
    refresh=_refresh(virtual, network, num_classes, due, refresh_steps) if refresh_steps and refreshes else None,
    anchors=Anchors(begin, labels, update, weighted if align_weight else None) if anchor_ipc else None,
  )


def _refresh(virtual: Virtual, network: Network, num_classes: int, due: Callable, steps: int) -> Callable:
  """`(key, images, data, variables, round) -> images`: local distillation in the global network, in due rounds."""

  def refresh(key: Key, images: jax.Array, data: Batch, variables: Variables, number: jax.Array) -> jax.Array:
    def go_on(images):
      return distil(virtual, always(network, variables), images, data, key, steps, num_classes)

    return jax.lax.cond(due(number) & (number > 0), go_on, lambda images: images, images)

  return refresh


def _alignment(name: str, temperature: float, labels: jax.Array) -> Callable:
  """`(features [B, D], y [B], where [B], anchor features [m, D]) -> scalar`."""

  def pull(features, y, where, anchors):
    if name == "mmd":
      return rbf_mmd(features, anchors, where=where)
    if name == "l2":
      return mean_distance(features, anchors, where=where)
    kept = jnp.concatenate([where, jnp.ones(labels.shape[0], bool)])
    both = jnp.concatenate([features, anchors])
    values = supervised_contrastive(both, jnp.concatenate([y, labels]), temperature=temperature, where=kept)
    return jnp.sum(values) / jnp.sum(kept).astype(values.dtype)

  return pull


def _no_match() -> Metrics:
  return {"match/loss": jnp.zeros(())}


def _anchor_moves(
  network: Network, labels: jax.Array, distance: Distance, lr: float, rate: float, momentum: float, steps: int
) -> Callable[[jax.Array, Variables, Variables], tuple[jax.Array, Metrics]]:
  """`(images, before, after) -> (images, metrics)`: the anchors after some steps, and how far off they were before."""
  optimizers = {"images": optax.sgd(rate, momentum or None)}

  def moves(images: jax.Array, before: Variables, after: Variables) -> tuple[jax.Array, Metrics]:
    if not steps:
      return images, _no_match()
    wanted = pseudo_gradient(before.params, after.params, lr)

    def mean_loss(params, images):
      return jnp.mean(cross_entropy(network.apply(params, images, train=False, stats=before.stats).logits, labels))

    def gap(images):
      return gradient_matching(jax.grad(mean_loss)(before.params, images), wanted, distance=distance)

    def step(roles, _):
      value, grads = jax.value_and_grad(gap)(roles["images"].params)
      return update_roles(optimizers, roles, {"images": grads}), value

    roles, values = jax.lax.scan(step, init_roles(optimizers, {"images": images}), length=steps)
    return roles["images"].params, {"match/loss": values[0]}

  return moves
