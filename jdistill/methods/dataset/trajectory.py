"""Trajectory matching: synthetic sets on which a short training run ends where an expert's longer one did.

DATM, MTT, TESLA, FTD and AST are one builder with other values: which start epochs come is the stream's business
(`jdistill.methods.dataset.segments`); whether labels are learned, the acceptance threshold, the gradient route of the
unroll and the averaging of images are arguments.

Paper symbol -> name here: theta*_t -> `start`, theta*_{t+M} -> `target`, N -> `inner_steps`, alpha -> `lr`.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jdistill import bilevel
from jdistill.augment import identity
from jdistill.base import Apply, Augmentation, Key, Method, Metrics, PyTree, Segment
from jdistill.losses import cross_entropy, soft_cross_entropy, trajectory_matching
from jdistill.methods.dataset.batches import inner_batches
from jdistill.methods.dataset.segments import Intermediate
from jdistill.methods.roles import Role, init_roles, update_roles
from jdistill.schema import Count, NonNegative, Positive, Range, Share, validated
from jdistill.synthetic import SyntheticSet

Momentum = Annotated[float, Range(0, 0.999)]


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
  apply: Apply, augment: Augmentation, image_shape: tuple[int, ...]
) -> Callable[[jax.Array, PyTree, PyTree], jax.Array]:
  """The inner loss of trajectory matching, in the form `jdistill.bilevel.unroll` wants.

  Args:
    apply: a network over flat parameter vectors.
    augment: what the records in the batches belong to.
    image_shape: `(height, width, channels)`.

  Returns:
    `(theta, rows, batch) -> scalar`: the weighted sum of the cross entropies of some rows of one batch, augmented by
    their record; with weights that add up to one over the whole batch it is the batch's mean. `rows` holds the picked
    `"images"`, flat `[rows, height * width * channels]` or not, and, where they are learned, `"labels"` (logits
    `[rows, classes]`); `batch` holds `"weight"` `[rows]`, `"record"` and, where they are not learned, the `"labels"` of
    its rows (logits or integers).
  """

  def loss(theta: jax.Array, rows: PyTree, batch: PyTree) -> jax.Array:
    images = rows["images"].reshape(-1, *image_shape)
    logits = apply(theta, augment.apply(batch["record"], images), train=True).logits
    labels = rows["labels"] if "labels" in rows else batch["labels"]
    compare = soft_cross_entropy if labels.ndim == 2 else cross_entropy
    return jnp.sum(batch["weight"].astype(logits.dtype) * compare(logits, labels))

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
    unroll: `jdistill.bilevel.unroll`, with another gradient route bound to it where wanted.

  Returns:
    A `Method` whose stream is made of `Segment`s and whose result is a `SyntheticSet`. Its figures are
    `accepted_share`, the share of steps that changed the set, and `learned_lr`.

  Raises:
    ValueError: `learn_labels` or `teacher_label` with integer labels, or both of them; while a step is traced,
      `intermediate` with segments that bring no points in between, or with fewer inner steps than their epochs.

  References:
    Cazenavette et al. (MTT, arXiv 2203.11932), alg. 1; Guo et al. (DATM, arXiv 2310.05773), alg. 1. The same loop: Cui
    et al. (TESLA, arXiv 2211.10586), sec. 4, with the gradient route `tesla`, and soft labels by `teacher_label`; Du et
    al. (FTD, arXiv 2211.11004), with experts trained by GSAM and the average of the images; Shen et al. (AST, arXiv
    2310.10541), with smooth experts, inner momentum, balanced and perturbed segments and points in between.
  """
  for name, wanted in (("learn_labels", learn_labels), ("teacher_label", teacher_label)):
    if wanted and initial.labels.ndim != 2:
      raise ValueError(f"trajectory_method: {name} needs label logits [m, classes], got {initial.labels.shape}")
  if learn_labels and teacher_label:
    raise ValueError("trajectory_method: teacher_label replaces the labels that learn_labels would learn")
  augment = augment or identity()
  optimizers = {
    "labels": optax.sgd(label_lr, label_momentum or None),
    "images": optax.sgd(image_lr, image_momentum or None),
    "lr": optax.sgd(lr_lr, lr_momentum or None),
  }
  size, loss = initial.images.shape[0], synthetic_loss(apply, augment, initial.images.shape[1:])

  def init(key: Key, example: Segment) -> TrajectoryState:
    del key, example
    # copies: the loop donates its state, and the initial set must outlive it
    images, labels, lr = (jnp.array(leaf, copy=True) for leaf in initial)
    learned = {"images": images, "lr": lr} | ({"labels": labels} if learn_labels else {})
    average = None if ema_decay is None else jnp.array(images, copy=True)
    return TrajectoryState(
      init_roles(optimizers, learned), None if learn_labels else labels, average, jnp.zeros((), jnp.int32)
    )

  def step(key: Key, state: TrajectoryState, segment: Segment) -> tuple[TrajectoryState, Metrics]:
    indices, batches = _inner(key, augment, initial.images.shape, batch_size or size, inner_steps)
    labels = state.labels
    if teacher_label:
      labels = apply(segment.target, state.roles["images"].params).logits.astype(state.labels.dtype)
    if labels is not None:
      batches["labels"] = labels[indices]
    if not isinstance(segment.loss_scale, tuple):
      batches["weight"] = batches["weight"] * segment.loss_scale.astype(batches["weight"].dtype)
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
    average = state.average
    if ema_decay is not None:
      average = jnp.where(accepted, ema_decay * average + (1 - ema_decay) * roles["images"].params, average)
    metrics = {"match/loss": value, "match/accepted": accepted.astype(jnp.float32), "synthetic/lr": roles["lr"].params}
    metrics |= {f"gradient/{n}": jnp.sqrt(jnp.sum(jnp.square(grads[n]))) for n in ("images", "labels") if n in grads}
    if teacher_label:
      labels = jnp.where(accepted, labels, state.labels)
    return TrajectoryState(roles, labels, average, state.accepted + accepted.astype(jnp.int32)), metrics

  return Method(init, step, _result, _figures)


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


def _inner(
  key: Key, augment: Augmentation, shape: tuple[int, ...], batch_size: int, steps: int
) -> tuple[jax.Array, dict[str, PyTree]]:
  """The rows of every inner step's batch, with their weights and augmentations."""
  key_order, key_augment = jax.random.split(key)
  indices, mask = inner_batches(key_order, shape[0], batch_size, steps)
  keys = jax.random.split(key_augment, steps)
  records = jax.vmap(lambda k: augment.sample(k, (indices.shape[1], *shape[1:])))(keys)
  weight = mask.astype(jnp.float32)
  return indices, {"weight": weight / jnp.sum(weight, axis=1, keepdims=True), "record": records}


def _result(state: TrajectoryState) -> SyntheticSet:
  images = state.roles["images"].params if state.average is None else state.average
  labels = state.roles["labels"].params if state.labels is None else state.labels
  return SyntheticSet(images, labels, state.roles["lr"].params)


def _figures(state: TrajectoryState, steps: int) -> dict[str, jax.Array]:
  return {"accepted_share": state.accepted / steps, "learned_lr": state.roles["lr"].params}
