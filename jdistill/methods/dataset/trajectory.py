"""Trajectory matching: synthetic sets on which a short training run ends where an expert's longer one did.

DATM and MTT are one builder with other values: which start epochs come is the stream's business
(`jdistill.methods.dataset.segments`); whether labels are learned, the acceptance threshold, the gradient route of the
unroll and the averaging of images are arguments.

Paper symbol -> name here: theta*_t -> `start`, theta*_{t+M} -> `target`, N -> `inner_steps`, alpha -> `lr`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jdistill import bilevel
from jdistill.augment import identity
from jdistill.base import Apply, Augmentation, Key, Method, Metrics, PyTree, Segment, UserError, View
from jdistill.losses import cross_entropy, soft_cross_entropy, trajectory_matching
from jdistill.methods.dataset.batches import augmented_batches, seen
from jdistill.methods.roles import Role, init_roles, update_roles
from jdistill.schema import Count, NonNegative, Positive, Range, Share, validated
from jdistill.synthetic import SyntheticSet

Momentum = Annotated[float, Range(0, 0.999)]
_STILL = 1e-7  # root mean square change of pixels in network space, per step, that never adds up to anything


class TrajectoryState(NamedTuple):
  """What a resume needs.

  Attributes:
    roles: `images`, `lr` and, where labels are learned, `labels`.
    labels: the fixed labels where they are not learned, else `None`.
    average: the running average of the images, or `None`.
    accepted: how many steps were accepted so far.
  """

  roles: dict[str, Role]
  labels: jax.Array | None
  average: jax.Array | None
  accepted: jax.Array


def synthetic_loss(
  apply: Apply, augment: Augmentation, image_shape: tuple[int, ...], view: View | None = None
) -> Callable[[jax.Array, PyTree, PyTree], jax.Array]:
  """The inner loss of trajectory matching, in the form `jdistill.bilevel.unroll` wants.

  Args:
    apply: a network over flat parameter vectors.
    augment: what the records in the batches belong to.
    image_shape: `(height, width, channels)`.
    view: what the batches were drawn for.

  Returns:
    `(theta, rows, batch) -> scalar`: the weighted sum of the cross entropies of some rows of one batch, augmented by
    their record; with weights that add up to one over the whole batch it is the batch's mean. `rows` holds the picked
    `"images"`, flat `[rows, height * width * channels]` or not, and, where they are learned, `"labels"` (logits
    `[rows, classes]`); `batch` holds `"weight"` `[rows]`, `"record"` and, where they are not learned, the `"labels"` of
    its rows (logits or integers).
  """

  def loss(theta: jax.Array, rows: PyTree, batch: PyTree) -> jax.Array:
    images = rows["images"].reshape(-1, *image_shape)
    labels = rows["labels"] if "labels" in rows else batch["labels"]
    images, labels, weight = seen(view, augment, images, labels, batch)
    logits = apply(theta, images, train=True).logits
    compare = soft_cross_entropy if labels.ndim == 2 else cross_entropy
    return jnp.sum(weight.astype(logits.dtype) * compare(logits, labels))

  return loss


@validated("method")
def trajectory_method(
  apply: Apply,
  initial: SyntheticSet,
  *,
  inner_steps: Count = 80,
  batch_size: Count | None = None,
  learn_labels: bool = True,
  threshold: Positive | None = 1.0,
  image_lr: NonNegative = 100.0,
  image_momentum: Momentum = 0.5,
  label_lr: NonNegative = 5.0,
  label_momentum: Momentum = 0.9,
  lr_lr: NonNegative = 1e-5,
  lr_momentum: Momentum = 0.5,
  ema_decay: Share | None = None,
  augment: Augmentation | None = None,
  view: View | None = None,
  unroll: Callable = bilevel.unroll,
) -> Method:
  """Builds trajectory matching (MTT) with DATM's additions as options.

  One outer step, for a segment `(start, target)` of an expert: train `inner_steps` SGD steps from `start` on batches of
  the synthetic set with the learned rate, compare the end point with `target` by
  `jdistill.losses.trajectory_matching`, and step labels, images and learning rate along its gradient, but only if the
  loss is at most `threshold`.

  Args:
    apply: a network over flat parameter vectors `[P]`, without running statistics.
    initial: the starting set; label logits `[m, classes]` for soft labels, integers `[m]` for hard ones.
    inner_steps: N.
    batch_size: synthetic images per inner step; `None` or more than there are means all of them.
    learn_labels: whether label logits are learned; needs soft labels.
    threshold: steps with a larger loss are skipped, momenta untouched; `None` accepts all (MTT).
    image_lr, image_momentum: SGD on images. The gradient per pixel is tiny, so rates of 100 to 10,000 are right.
    label_lr, label_momentum: SGD on label logits.
    lr_lr, lr_momentum: SGD on the inner learning rate.
    ema_decay: keep an average of the images and give that as the result; `None` gives the last images. (DATM's
      settings name a decay that its released code never uses.)
    augment: drawn anew for every inner step; `None` for none.
    view: what the network trains on in the place of each synthetic image. An inner step takes as many images fewer, so
      that `batch_size` counts what the network sees. `None` for the images themselves.
    unroll: `jdistill.bilevel.unroll`, with another gradient route bound to it where wanted.

  Returns:
    A `Method` whose stream is made of `Segment`s and whose result is a `SyntheticSet`. Its figures are
    `accepted_share`, the share of steps that changed the set, and `learned_lr`.

  Raises:
    ValueError: `learn_labels` with integer labels.
    UserError: a batch that its views do not fill evenly.

  References:
    Cazenavette et al. (MTT, arXiv 2203.11932), alg. 1; Guo et al. (DATM, arXiv 2310.05773), alg. 1.
  """
  if learn_labels and initial.labels.ndim != 2:
    raise ValueError(f"trajectory_method: learn_labels needs label logits [m, classes], got {initial.labels.shape}")
  augment = augment or identity()
  optimizers = {
    "labels": optax.sgd(label_lr, label_momentum or None),
    "images": optax.sgd(image_lr, image_momentum or None),
    "lr": optax.sgd(lr_lr, lr_momentum or None),
  }
  size = initial.images.shape[0]
  rows = _images_per_step(min(batch_size or size, size), view)
  loss = synthetic_loss(apply, augment, initial.images.shape[1:], view)

  def init(key: Key, example: Segment) -> TrajectoryState:
    del key, example
    return _initial_state(optimizers, initial, learn_labels, ema_decay is not None)

  def step(key: Key, state: TrajectoryState, segment: Segment) -> tuple[TrajectoryState, Metrics]:
    indices, batches = augmented_batches(key, augment, initial.images.shape, rows, inner_steps, view)
    if state.labels is not None:
      batches["labels"] = state.labels[indices]

    def outer(learned: dict[str, jax.Array]) -> jax.Array:
      # flat, for what a loop carries lies in tiles on accelerators, and narrow images would take four times their size
      shared = {name: learned[name].reshape(size, -1) for name in ("images", "labels") if name in learned}
      end = unroll(loss, segment.start, shared, batches, learned["lr"], indices=indices)
      return trajectory_matching(end, segment.target, segment.start)

    value, grads = jax.value_and_grad(outer)({name: role.params for name, role in state.roles.items()})
    accepted = jnp.isfinite(value) if threshold is None else value <= threshold
    roles = update_roles(optimizers, state.roles, grads, accepted)
    average = state.average
    if ema_decay is not None:
      average = jnp.where(accepted, ema_decay * average + (1 - ema_decay) * roles["images"].params, average)
    metrics = {"match/loss": value, "match/accepted": accepted.astype(jnp.float32), "synthetic/lr": roles["lr"].params}
    metrics |= {f"gradient/{n}": jnp.sqrt(jnp.sum(jnp.square(grads[n]))) for n in ("images", "labels") if n in grads}
    return TrajectoryState(roles, state.labels, average, state.accepted + accepted.astype(jnp.int32)), metrics

  return Method(init, step, _result, _figures, stuck=_watch(threshold, image_lr / initial.images.size**0.5))


def _initial_state(
  optimizers: Mapping[str, optax.GradientTransformation], initial: SyntheticSet, learn_labels: bool, averaged: bool
) -> TrajectoryState:
  # copies: the loop donates its state, and the initial set must outlive it
  images, labels, lr = (jnp.array(leaf, copy=True) for leaf in initial)
  learned = {"images": images, "lr": lr} | ({"labels": labels} if learn_labels else {})
  average = jnp.array(images, copy=True) if averaged else None
  return TrajectoryState(
    init_roles(optimizers, learned), None if learn_labels else labels, average, jnp.zeros((), jnp.int32)
  )


def _images_per_step(batch_size: int, view: View | None) -> int:
  copies = 1 if view is None else view.copies
  if batch_size % copies:
    raise UserError(
      f"method.batch_size={batch_size}: {copies} views of each image do not fill an inner step evenly; set "
      f"method.batch_size to a multiple of {copies}, at most the number of synthetic images"
    )
  return batch_size // copies


def _watch(threshold: float | None, image_step: float) -> Callable[[Sequence[Mapping[str, float]]], str]:
  """Why nothing is learned; `image_step` turns the norm of a gradient into a root mean square change of pixels."""

  def stuck(rows: Sequence[Mapping[str, float]]) -> str:
    losses, rates = [row["match/loss"] for row in rows], [row["synthetic/lr"] for row in rows]
    moves = [image_step * row["gradient/images"] for row in rows]
    if not any(row["match/accepted"] for row in rows):
      return (
        f"method.threshold={threshold:g}: all steps are refused, with matching losses from {min(losses):.3g} to "
        f"{max(losses):.3g}; change method.lr_init, lower method.max_start_epoch, or let the preset 'own' measure them"
      )
    if rates[-1] <= 0.02 * rates[0]:
      return f"method.lr_lr: the learned rate fell from {rates[0]:.3g} to {rates[-1]:.3g}; lower method.lr_lr"
    if max(moves) < _STILL:
      return (
        f"method.image_lr: a step changes pixels by {max(moves):.1g} of their scale, the gradient vanishes; raise "
        "method.image_lr, or change method.lr_init"
      )
    return ""

  return stuck


def _result(state: TrajectoryState) -> SyntheticSet:
  images = state.roles["images"].params if state.average is None else state.average
  labels = state.roles["labels"].params if state.labels is None else state.labels
  return SyntheticSet(images, labels, state.roles["lr"].params)


def _figures(state: TrajectoryState, steps: int) -> dict[str, jax.Array]:
  return {"accepted_share": state.accepted / steps, "learned_lr": state.roles["lr"].params}
