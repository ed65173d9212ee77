"""SRe2L and DWA: images on which a trained network is sure of a class and sees the statistics of real data."""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.augment import compose, flip, resized_crop, roll_jitter
from jdistill.base import Apply, Augmentation, Key, Method, Metrics, PyTree, UserError, Variables
from jdistill.losses import bn_stat_loss, cross_entropy, soft_cross_entropy
from jdistill.methods.dataset.recovery import (
  BlockGradient,
  Rates,
  RecoveryState,
  collect_blocks,
  descend,
  sre2l_blocks,
  start_blocks,
)
from jdistill.ops.ascent import ascend, global_norm, random_step
from jdistill.schema import Above, Count, NonNegative, Positive, Range, Size, validated
from jdistill.synthetic import Feed, SyntheticSet

_FOR_DIRECTION = 1 << 16  # folded into a step's key; small numbers are those of the augmentation's draws

# `(key, teacher, x, y) -> parameters` for the block of images `x` in network space with labels `y`
Adjust = Callable[[Key, Variables, jax.Array, jax.Array], PyTree]


def teacher_stream() -> Feed:
  """The stream of `sre2l` and `nrr_dd`: the teacher's variables in every step."""

  def check(method: Mapping[str, Any], teacher_train: Mapping[str, Any] | None) -> None:
    del teacher_train
    if method.get("direction") == "gradient" and method["initial"] == "noise":
      raise UserError(
        "method.initial='noise': the gradient that moves the teacher is that of real images; set method.initial='real',"
        " or method.direction='none'"
      )

  return Feed(lambda found: lambda step: found.teacher, lambda found: found.teacher, check)


@validated("method")
def sre2l(
  teacher_apply: Apply,
  initial: SyntheticSet,
  pixel_range: tuple[jax.Array, jax.Array],
  *,
  iterations: Count = 1000,
  block_size: Annotated[int, Range(2)] = 100,
  image_lr: Positive = 0.25,
  b1: Annotated[float, Range(0, 0.9999)] = 0.5,
  b2: Annotated[float, Range(0, 0.9999)] = 0.9,
  r_bn: NonNegative = 0.01,
  variance_weight: NonNegative = 1.0,
  first_layer_multiplier: NonNegative = 10.0,
  crop_scale: Annotated[float, Above(0), Range(high=1)] | None = None,
  flip_images: bool = False,
  jitter: Size = 4,
  direction: Literal["gradient", "random", "none"] = "none",
  ascent_steps: Size = 12,
  rho: NonNegative = 0.015,
) -> Method:
  """Builds SRe2L's or DWA's recovery of images from one trained network with batch norm.

  The set is recovered in blocks of images, one after another (`sre2l_blocks`). Every step is one update of one block,
  by Adam, along the gradient of

      mean_i CE(f(a(x_i)), y_i) + r_bn bn_stat_loss(a(x))

  with the teacher `f` in evaluation mode and `a` one draw of crop, mirroring and roll for the whole block. The learning
  rate falls from `image_lr` to 0 along a half cosine over the `iterations` of a block; pixels are clipped to their
  range after every update; the last iterate is kept. Steps after the last block change nothing. The
  activations of one block are in memory at a time. Total variation and squared norm of the images, whose weights the
  published settings have at 0, are left out.

  DWA first moves the teacher's weights by `ascent_steps` ascents of the cross entropy of the block's initial images, as
  the block's first step shows them, `rho` long in all (`jdistill.ops.ascent.ascend`). Running statistics stay. Every
  block starts from the weights as they were trained. With `direction="random"` they move by `rho` in a random
  direction instead.

  Args:
    teacher_apply: the trained network.
    initial: where recovery starts: noise in SRe2L (`jdistill.synthetic.start(initial="noise")`), real images in DWA.
    pixel_range: lowest and highest value per channel in network space, `[channels]` each.
    iterations: updates per block.
    block_size: images per block, whose statistics are matched; clipped to the size of the set.
    image_lr, b1, b2: Adam on images.
    r_bn: weight of the batch-norm statistics.
    variance_weight: `r_var`, how much more variances count than means; 11 in DWA on small images, 2 on ImageNet.
    first_layer_multiplier: how much more the first batch norm counts than the others.
    crop_scale: smallest share of the area that a random resized crop keeps (0.08 for ImageNet); `None` for no crops.
    flip_images: mirror with probability 1/2.
    jitter: largest roll in pixels (32 for ImageNet).
    direction: in which the teacher's weights move before each block.
    ascent_steps: K, of the direction `"gradient"`; 0 leaves the weights where they are.
    rho: how far the weights move, in the norm over all parameters.

  Returns:
    A `Method` whose stream gives the teacher's `Variables` in every step, so that they are no constants of the program,
    and whose result is a `SyntheticSet` in the order of `initial`. Where weights move, the metric `adjust/norm` is
    their distance from the trained ones.

  Raises:
    ValueError: with the direction `"gradient"`, initial images outside of the pixel range; in `init`, a teacher without
      batch norm.

  References:
    Yin et al., "Squeeze, Recover and Relabel: Dataset Condensation at ImageNet Scale From A New Perspective" (arXiv
    2306.13092), sec. 3.2; Du et al., "Diversity-Driven Synthesis: Enhancing Dataset Distillation through Directed
    Weight Adjustment" (arXiv 2409.17612), alg. 1. In DWA's released code the gradients of the ascents also enter the
    first update of the images, and blocks that are recovered by one call start from each other's weights; not here.
  """
  blocks = sre2l_blocks(initial.labels, block_size)
  augment = recovery_augmentation(crop_scale=crop_scale, flip_images=flip_images, jitter=jitter)
  weights = {"r_bn": r_bn, "variance_weight": variance_weight, "first_layer_multiplier": first_layer_multiplier}
  loss = functools.partial(recover_loss, teacher_apply, **weights)
  adjust = weight_adjustment(teacher_apply, direction, steps=ascent_steps, rho=rho)
  if direction == "gradient":
    check_pixels(initial.images, pixel_range)
  rates = Rates(iterations, image_lr, b1, b2, pixel_range)

  def init(key: Key, teacher: Variables) -> RecoveryState:
    del key
    check_batch_norm(teacher_apply, teacher, jnp.asarray(initial.images)[blocks[0]])
    return start_blocks(initial, blocks, () if adjust is None else teacher.params)

  def step(key: Key, state: RecoveryState, teacher: Variables) -> tuple[RecoveryState, Metrics]:
    def gradient(number: jax.Array, place: jax.Array, x: jax.Array, y: jax.Array) -> BlockGradient:
      record = augment.sample(key, x.shape)
      seen, adjusted, moved_by = teacher, state.carried, {}
      if adjust is not None:
        fresh = lambda: adjust(jax.random.fold_in(key, _FOR_DIRECTION), teacher, augment.apply(record, x), y)  # noqa: E731
        adjusted = jax.lax.cond(place == 0, fresh, lambda: state.carried)
        seen = teacher._replace(params=adjusted)
        moved_by = {"adjust/norm": global_norm(jax.tree.map(jnp.subtract, adjusted, teacher.params))}
      (_, metrics), grads = jax.value_and_grad(lambda x: loss(seen, augment.apply(record, x), y), has_aux=True)(x)
      return BlockGradient(grads, metrics | moved_by, adjusted)

    return descend(state, gradient, rates)

  stuck = _without_gradient if adjust is not None else lambda rows: ""
  result = functools.partial(collect_blocks, blocks=blocks)
  return Method(init, step, result, steps=len(blocks) * iterations, stuck=stuck)


def recover_loss(
  teacher_apply: Apply,
  teacher: Variables,
  x: jax.Array,
  y: jax.Array,
  *,
  r_bn: float,
  variance_weight: float = 1.0,
  first_layer_multiplier: float = 10.0,
  left_out: Collection[str] = (),
) -> tuple[jax.Array, Metrics]:
  """What recovery descends: `mean_i CE(f(x_i), y_i) + r_bn bn_stat_loss(x)`, the teacher in evaluation mode.

  Args:
    teacher_apply: a network with batch norm; not under a `jit` of its own, which would sort the layers by name.
    teacher: its variables. No gradient is taken in them.
    x: `[b, height, width, channels]`, augmented.
    y: `[b]` integer labels, or `[b, classes]` label logits.
    r_bn: weight of the statistics.
    variance_weight, first_layer_multiplier: see `jdistill.losses.bn_stat_loss`.
    left_out: names of batch norms whose statistics do not count. If the first one is among them, no layer has its
      weight.

  Returns:
    The scalar, and its parts as metrics.

  Raises:
    ValueError: no batch norm is left.
  """
  out = teacher_apply(teacher.params, x, stats=teacher.stats)
  compare = soft_cross_entropy if y.ndim == 2 else cross_entropy
  class_loss = jnp.mean(compare(out.logits, y))
  counted = [name for name in out.norm_inputs if name not in left_out]
  if counted[:1] != list(out.norm_inputs)[:1]:
    first_layer_multiplier = 1.0
  running = [(teacher.stats[name]["mean"], teacher.stats[name]["var"]) for name in counted]
  weights = {"first_layer_multiplier": first_layer_multiplier, "variance_weight": variance_weight}
  statistics = bn_stat_loss([out.norm_inputs[name] for name in counted], running, **weights)
  total = class_loss + r_bn * statistics
  return total, {"recover/loss": total, "recover/cross_entropy": class_loss, "recover/bn": statistics}


def recovery_augmentation(*, crop_scale: float | None, flip_images: bool, jitter: int) -> Augmentation:
  """Crop, mirroring and roll, each drawn once for the whole batch; see `sre2l`."""
  parts = [] if crop_scale is None else [resized_crop((crop_scale, 1.0), siamese=True)]
  if flip_images:
    parts.append(flip(siamese=True))
  return compose(*parts, roll_jitter(jitter))


def weight_adjustment(teacher_apply: Apply, direction: str, *, steps: int, rho: float) -> Adjust | None:
  """How the teacher's weights move before a block; see `sre2l`.

  Args:
    teacher_apply: the trained network, asked in evaluation mode.
    direction: `"gradient"` of the mean cross entropy, `"random"` or `"none"`.
    steps: how many ascents the gradient's direction takes.
    rho: how far.

  Returns:
    An `Adjust`; `None` where nothing moves.
  """
  if direction == "none" or rho == 0 or (direction == "gradient" and steps == 0):
    return None
  if direction == "random":
    return lambda key, teacher, x, y: random_step(key, teacher.params, rho=rho)

  def adjust(key: Key, teacher: Variables, x: jax.Array, y: jax.Array) -> PyTree:
    del key

    def loss(params: PyTree) -> jax.Array:
      compare = soft_cross_entropy if y.ndim == 2 else cross_entropy
      return jnp.mean(compare(teacher_apply(params, x, stats=teacher.stats).logits, y))

    return ascend(jax.grad(loss), teacher.params, rho=rho, steps=steps)

  return adjust


def check_pixels(images: jax.Array, pixel_range: tuple[jax.Array, jax.Array]) -> None:
  """Raises `ValueError` if images `[m, height, width, channels]` leave the range to which recovery clips them."""
  pixels, (low, high) = np.asarray(images), (np.asarray(bound) for bound in pixel_range)
  ends, slack = (pixels.min((0, 1, 2)), pixels.max((0, 1, 2))), 1e-3 * (high - low)
  wrong = np.flatnonzero((ends[0] < low - slack) | (ends[1] > high + slack))
  if len(wrong):
    c = wrong[0]
    raise ValueError(
      f"initial: channel {c} of its images goes from {ends[0][c]:.3g} to {ends[1][c]:.3g}, and pixel_range from "
      f"{low[c]:.3g} to {high[c]:.3g}; give the range of their own normalisation"
    )


def check_batch_norm(apply: Apply, variables: Variables, images: jax.Array) -> None:
  """Raises `ValueError` unless the network has batch norm, whose statistics recovery matches."""
  seen = jax.eval_shape(lambda v, x: apply(v.params, x, stats=v.stats).norm_inputs, variables, images)
  if not seen:
    raise ValueError(
      "teacher_apply: the teacher has no batch norm, whose statistics recovery matches; take a network that has, such "
      "as 'convnet_bn' or 'resnet18_bn'"
    )


def _without_gradient(rows: Sequence[Mapping[str, float]]) -> str:
  """What is told where the teacher's weights did not move."""
  if all(row["adjust/norm"] > 0 for row in rows):
    return ""
  return (
    "The teacher is so sure of the initial images that its loss has no gradient to move along (adjust/norm is 0); "
    "train it for fewer epochs (teacher_train.epochs), or set method.direction='none'."
  )
