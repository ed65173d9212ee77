"""Trajectory matching: synthetic sets on which a short training run ends where an expert's longer one did.

DATM, MTT, TESLA, FTD and AST are one builder with other values: which start epochs come is the stream's business
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
from jdistill.methods.dataset.segments import Intermediate
from jdistill.methods.roles import Role, init_roles, update_roles
from jdistill.schema import Count, NonNegative, Positive, Range, Share, validated
from jdistill.synthetic import SyntheticSet

Momentum = Annotated[float, Range(0, 0.999)]
_STILL = 1e-7  # root mean square change of pixels in network space, per step, that never adds up to anything


class TrajectoryState(NamedTuple):
  """What a resume needs.

  Attributes:
    roles: `images`, `lr` and, where labels are learned, `labels`.
    labels: where they are not learned, those of the last accepted step (or the initial ones), else `None`.
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
  inner_momentum: Momentum = 0.0,
  intermediate: Intermediate = "none",
  learn_labels: bool = True,
  teacher_label: bool = False,
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
    inner_momentum: of the inner steps, `b <- inner_momentum b + gradient`, `theta <- theta - lr b` from `b = 0`; the
      gradient goes through `b`.
    intermediate: `"equal"` and `"adaptive"` add, for every epoch `i < M` in between, the matching loss of the inner
      training after `(N // M) i` steps with the expert after epoch `i`; times 1, or times `i / M`.
    learn_labels: whether label logits are learned; needs soft labels.
    teacher_label: every step takes the logits of `target` on the images as they are, without augmentation, for labels
      that are constants of its gradient; those of the last accepted step are part of the result. Needs soft labels
      that are not learned.
    threshold: steps with a larger loss are skipped, momenta untouched; `None` accepts all (MTT).
    image_lr, image_momentum: SGD on images. The gradient per pixel is tiny, so rates of 100 to 10,000 are right.
    label_lr, label_momentum: SGD on label logits.
    lr_lr, lr_momentum: SGD on the inner learning rate.
    ema_decay: keep an average of the images, which starts with the initial ones, and give that as the result (FTD);
      `None` gives the last images. (DATM's settings name a decay that its released code never uses.)
    augment: drawn anew for every inner step; `None` for none.
    view: what the network trains on in the place of each synthetic image. An inner step takes as many images fewer, so
      that `batch_size` counts what the network sees. `None` for the images themselves.
    unroll: `jdistill.bilevel.unroll`, with another gradient route bound to it where wanted.

  Returns:
    A `Method` whose stream is made of `Segment`s and whose result is a `SyntheticSet`. Its figures are
    `accepted_share`, the share of steps that changed the set, and `learned_lr`.

  Raises:
    ValueError: `learn_labels` or `teacher_label` with integer labels, or both of them; while a step is traced,
      `intermediate` with segments that bring no points in between, or with fewer inner steps than their epochs.
    UserError: a batch that its views do not fill evenly.

  References:
    Cazenavette et al. (MTT, arXiv 2203.11932), alg. 1; Guo et al. (DATM, arXiv 2310.05773), alg. 1. The same loop: Cui
    et al. (TESLA, arXiv 2211.10586), sec. 4, with the gradient route `tesla`, and soft labels by `teacher_label`; Du et
    al. (FTD, arXiv 2211.11004), with experts trained by GSAM and the average of the images; Shen et al. (AST, arXiv
    2310.10541), with smooth experts, inner momentum, balanced and perturbed segments and points in between.
  """
  _check_labels(initial.labels, learn_labels=learn_labels, teacher_label=teacher_label)
  augment = augment or identity()
  rates = {"labels": (label_lr, label_momentum), "images": (image_lr, image_momentum), "lr": (lr_lr, lr_momentum)}
  optimizers = {name: optax.sgd(rate, momentum or None) for name, (rate, momentum) in rates.items()}
  size = initial.images.shape[0]
  rows = _images_per_step(min(batch_size or size, size), view)
  loss = synthetic_loss(apply, augment, initial.images.shape[1:], view)

  def init(key: Key, example: Segment) -> TrajectoryState:
    del key, example
    return _initial_state(optimizers, initial, learn_labels, ema_decay is not None)

  def step(key: Key, state: TrajectoryState, segment: Segment) -> tuple[TrajectoryState, Metrics]:
    indices, batches = augmented_batches(key, augment, initial.images.shape, rows, inner_steps, view)
    labels = state.labels
    if teacher_label:
      labels = apply(segment.target, state.roles["images"].params).logits.astype(state.labels.dtype)
    if labels is not None:
      batches["labels"] = labels[indices]
    batches["weight"] = _scaled(batches["weight"], segment)
    marks = _marks(segment, inner_steps) if intermediate != "none" else ()
    options = {"indices": indices, "momentum": inner_momentum} | ({"marks": marks} if marks else {})

    def outer(learned: dict[str, jax.Array]) -> jax.Array:
      # flat, for what a loop carries lies in tiles on accelerators, and narrow images would take four times their size
      shared = {name: learned[name].reshape(size, -1) for name in ("images", "labels") if name in learned}
      points = unroll(loss, segment.start, shared, batches, learned["lr"], **options)
      return _distance(points if marks else (points,), segment, intermediate)

    value, grads = jax.value_and_grad(outer)({name: role.params for name, role in state.roles.items()})
    accepted = jnp.isfinite(value) if threshold is None else value <= threshold
    roles = update_roles(optimizers, state.roles, grads, accepted)
    average = _averaged(state.average, roles["images"].params, ema_decay, accepted)
    labels = jnp.where(accepted, labels, state.labels) if teacher_label else labels
    state = TrajectoryState(roles, labels, average, state.accepted + accepted.astype(jnp.int32))
    return state, _metrics(value, accepted, roles["lr"].params, grads)

  return Method(init, step, _result, _figures, stuck=_watch(threshold, image_lr / initial.images.size**0.5))


def _scaled(weight: jax.Array, segment: Segment) -> jax.Array:
  """The weights of all examples, with the segment's own factor of the loss."""
  scale = segment.loss_scale
  return weight if isinstance(scale, tuple) else weight * scale.astype(weight.dtype)


def _averaged(average: jax.Array | None, images: jax.Array, decay: float | None, accepted: jax.Array):
  return average if decay is None else jnp.where(accepted, decay * average + (1 - decay) * images, average)


def _metrics(value: jax.Array, accepted: jax.Array, lr: jax.Array, grads: Mapping[str, jax.Array]) -> Metrics:
  metrics = {"match/loss": value, "match/accepted": accepted.astype(jnp.float32), "synthetic/lr": lr}
  norms = {f"gradient/{n}": jnp.sqrt(jnp.sum(jnp.square(grads[n]))) for n in ("images", "labels") if n in grads}
  return metrics | norms


def _check_labels(labels: jax.Array, **wanted: bool) -> None:
  for name, one in wanted.items():
    if one and labels.ndim != 2:
      raise ValueError(f"trajectory_method: {name} needs label logits [m, classes], got {labels.shape}")
  if all(wanted.values()):
    raise ValueError("trajectory_method: teacher_label replaces the labels that learn_labels would learn")


def _initial_state(
  optimizers: Mapping[str, optax.GradientTransformation], initial: SyntheticSet, learn_labels: bool, averaged: bool
) -> TrajectoryState:
  # copies: the loop donates its state, and the initial set must outlive it
  images, labels, lr = (jnp.array(leaf, copy=True) for leaf in initial[:3])
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


def _marks(segment: Segment, steps: int) -> tuple[int, ...]:
  """After which inner steps the points in between are matched."""
  if isinstance(segment.between, tuple):
    raise ValueError(
      "trajectory_method: intermediate needs segments with points in between; see segments(intermediate)"
    )
  epochs = segment.between.shape[0] + 1
  if steps < epochs:
    raise ValueError(f"trajectory_method: inner_steps={steps} are fewer than the {epochs} epochs of a segment")
  return tuple(steps // epochs * epoch for epoch in range(1, epochs))


def _distance(points: Sequence[jax.Array], segment: Segment, intermediate: str) -> jax.Array:
  """The matching loss of the last point, with the weighted ones of those before it."""
  *early, end = points
  total = trajectory_matching(end, segment.target, segment.start)
  for number, point in enumerate(early):
    beta = 1.0 if intermediate == "equal" else (number + 1) / len(points)
    total += beta * trajectory_matching(point, segment.between[number], segment.start)
  return total


def _result(state: TrajectoryState) -> SyntheticSet:
  images = state.roles["images"].params if state.average is None else state.average
  labels = state.roles["labels"].params if state.labels is None else state.labels
  return SyntheticSet(images, labels, state.roles["lr"].params)


def _figures(state: TrajectoryState, steps: int) -> dict[str, jax.Array]:
  return {"accepted_share": state.accepted / steps, "learned_lr": state.roles["lr"].params}
