"""SRe2L's recovery: images on which a trained network is sure of a class and sees the statistics of real data."""

import functools
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.augment import compose, flip, resized_crop, roll_jitter
from jdistill.base import Apply, Augmentation, Key, Method, Metrics, Variables
from jdistill.losses import bn_stat_loss, cross_entropy, soft_cross_entropy
from jdistill.schema import Above, Count, NonNegative, Positive, Range, Size, validated
from jdistill.synthetic import Feed, SyntheticSet


class SRe2LState(NamedTuple):
  """What a resume needs.

  Attributes:
    images: `[blocks, block_size, height, width, channels]`: finished blocks, the current one, and those to come.
    labels: `[blocks, block_size, ...]` of these images.
    moments: `(first, second)` of Adam, of the current block.
    count: scalar int32, steps done.
    lr: of the initial set; not learned.
  """

  images: jax.Array
  labels: jax.Array
  moments: tuple[jax.Array, jax.Array]
  count: jax.Array
  lr: jax.Array


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


def teacher_stream() -> Feed:
  """The stream of `sre2l`: the teacher's variables in every step."""
  return Feed(lambda found: lambda step: found.teacher, lambda found: found.teacher)


@validated("method")
def sre2l(
  teacher_apply: Apply,
  initial: SyntheticSet,
  pixel_range: tuple[jax.Array, jax.Array],
  *,
  iterations: Count = 1000,
  block_size: Count = 100,
  image_lr: Positive = 0.25,
  b1: Annotated[float, Range(0, 0.9999)] = 0.5,
  b2: Annotated[float, Range(0, 0.9999)] = 0.9,
  r_bn: NonNegative = 0.01,
  first_layer_multiplier: NonNegative = 10.0,
  crop_scale: Annotated[float, Above(0), Range(high=1)] | None = None,
  flip_images: bool = False,
  jitter: Size = 4,
) -> Method:
  """Builds SRe2L's recovery of images from one trained network with batch norm.

  The set is recovered in blocks of images, one after another (`sre2l_blocks`). Every step is one update of one block,
  by Adam, along the gradient of

      mean_i CE(f(a(x_i)), y_i) + r_bn bn_stat_loss(a(x))

  with the teacher `f` in evaluation mode and `a` one draw of crop, mirroring and roll for the whole block. The learning
  rate falls from `image_lr` to 0 along a half cosine over the `iterations` of a block; pixels are clipped to their
  range after every update; the last iterate is kept. Steps after the last block change nothing. The
  activations of one block are in memory at a time. Total variation and squared norm of the images, whose weights the
  published settings have at 0, are left out.

  Args:
    teacher_apply: the trained network.
    initial: where recovery starts: noise in the paper (`jdistill.synthetic.start(initial="noise")`), or real images.
    pixel_range: lowest and highest value per channel in network space, `[channels]` each.
    iterations: K, updates per block.
    block_size: images per block; clipped to the size of the set.
    image_lr, b1, b2: Adam on images.
    r_bn: weight of the batch-norm statistics.
    first_layer_multiplier: how much more the first batch norm counts than the others.
    crop_scale: smallest share of the area that a random resized crop keeps (0.08 for ImageNet); `None` for no crops.
    flip_images: mirror with probability 1/2.
    jitter: largest roll in pixels (32 for ImageNet).

  Returns:
    A `Method` whose stream gives the teacher's `Variables` in every step, so that they are no constants of the program,
    and whose result is a `SyntheticSet` in the order of `initial`.

  Raises:
    ValueError: in `init`, a teacher without batch norm.

  References:
    Yin et al., "Squeeze, Recover and Relabel: Dataset Condensation at ImageNet Scale From A New Perspective" (arXiv
    2306.13092), sec. 3.2.
  """
  blocks = sre2l_blocks(initial.labels, block_size)
  augment = recovery_augmentation(crop_scale=crop_scale, flip_images=flip_images, jitter=jitter)
  loss = functools.partial(recover_loss, teacher_apply, r_bn=r_bn, first_layer_multiplier=first_layer_multiplier)
  low, high = (jnp.asarray(bound).reshape(1, 1, 1, -1) for bound in pixel_range)

  def init(key: Key, teacher: Variables) -> SRe2LState:
    del key
    images = jnp.asarray(initial.images)[blocks]
    check_batch_norm(teacher_apply, teacher, jax.ShapeDtypeStruct(images.shape[1:], images.dtype))
    moments = (jnp.zeros_like(images[0]), jnp.zeros_like(images[0]))
    labels, lr = jnp.asarray(initial.labels)[blocks], jnp.array(initial.lr, copy=True)
    return SRe2LState(images, labels, moments, jnp.zeros((), jnp.int32), lr)

  def step(key: Key, state: SRe2LState, teacher: Variables) -> tuple[SRe2LState, Metrics]:
    number, place = state.count // iterations, state.count % iterations
    active = number < len(blocks)
    number = jnp.minimum(number, len(blocks) - 1)
    x, y = state.images[number], state.labels[number]
    record = augment.sample(key, x.shape)
    (_, metrics), grads = jax.value_and_grad(lambda x: loss(teacher, augment.apply(record, x), y), has_aux=True)(x)
    moments = jax.tree.map(lambda moment: jnp.where(place == 0, jnp.zeros_like(moment), moment), state.moments)
    direction, moments = _adam(grads, moments, place + 1, b1, b2)
    rate = image_lr * _half_cosine(place, iterations).astype(x.dtype)
    moved = jnp.where(active, jnp.clip(x - rate * direction, low, high), x)
    metrics |= {
      "gradient/images": jnp.sqrt(jnp.sum(jnp.square(grads))),
      "recover/lr": rate,
    }
    images = state.images.at[number].set(moved)
    return SRe2LState(images, state.labels, moments, state.count + 1, state.lr), metrics

  def result(state: SRe2LState) -> SyntheticSet:
    size = initial.images.shape[0]
    own = jnp.argsort(jnp.asarray(blocks.reshape(-1)[:size]))
    flat = lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:size][own]  # noqa: E731
    return SyntheticSet(flat(state.images), flat(state.labels), state.lr)

  return Method(init, step, result, steps=len(blocks) * iterations)


def recover_loss(
  teacher_apply: Apply,
  teacher: Variables,
  x: jax.Array,
  y: jax.Array,
  *,
  r_bn: float,
  first_layer_multiplier: float = 10.0,
) -> tuple[jax.Array, Metrics]:
  """What recovery descends: `mean_i CE(f(x_i), y_i) + r_bn bn_stat_loss(x)`, the teacher in evaluation mode.

  Args:
    teacher_apply: a network with batch norm; not under a `jit` of its own, which would sort the layers by name.
    teacher: its variables. No gradient is taken in them.
    x: `[b, height, width, channels]`, augmented.
    y: `[b]` integer labels, or `[b, classes]` label logits.
    r_bn: weight of the statistics.
    first_layer_multiplier: see `jdistill.losses.bn_stat_loss`.

  Returns:
    The scalar, and its parts as metrics.
  """
  out = teacher_apply(teacher.params, x, stats=teacher.stats)
  compare = soft_cross_entropy if y.ndim == 2 else cross_entropy
  class_loss = jnp.mean(compare(out.logits, y))
  running = [(teacher.stats[name]["mean"], teacher.stats[name]["var"]) for name in out.norm_inputs]
  statistics = bn_stat_loss(list(out.norm_inputs.values()), running, first_layer_multiplier=first_layer_multiplier)
  total = class_loss + r_bn * statistics
  return total, {"recover/loss": total, "recover/cross_entropy": class_loss, "recover/bn": statistics}


def recovery_augmentation(*, crop_scale: float | None, flip_images: bool, jitter: int) -> Augmentation:
  """Crop, mirroring and roll, each drawn once for the whole batch; see `sre2l`."""
  parts = [] if crop_scale is None else [resized_crop((crop_scale, 1.0), siamese=True)]
  if flip_images:
    parts.append(flip(siamese=True))
  return compose(*parts, roll_jitter(jitter))


def check_batch_norm(apply: Apply, variables: Variables, images: jax.ShapeDtypeStruct) -> None:
  """Raises `ValueError` unless the network has batch norm, whose statistics recovery matches."""
  seen = jax.eval_shape(lambda v, x: apply(v.params, x, stats=v.stats).norm_inputs, variables, images)
  if not seen:
    raise ValueError(
      "sre2l: the teacher has no batch norm, whose statistics recovery matches; take a network that has, such as "
      "'convnet_bn' or 'resnet18_bn'"
    )


def _adam(
  grad: jax.Array, moments: tuple[jax.Array, jax.Array], count: jax.Array, b1: float, b2: float
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  """Adam's direction and new moments at its step number `count`, from 1; by hand, as it starts again with a block."""
  first, second = b1 * moments[0] + (1 - b1) * grad, b2 * moments[1] + (1 - b2) * jnp.square(grad)
  count = count.astype(grad.dtype)
  debiased = first / (1 - jnp.power(jnp.asarray(b1, grad.dtype), count))
  scale = jnp.sqrt(second / (1 - jnp.power(jnp.asarray(b2, grad.dtype), count))) + 1e-8
  return debiased / scale, (first, second)


def _half_cosine(count: jax.Array, steps: int) -> jax.Array:
  return 0.5 * (1 + jnp.cos(jnp.pi * count.astype(jnp.float32) / steps))
