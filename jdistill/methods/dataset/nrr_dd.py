"""NRR-DD: recovery of images that leaves alone what a trained network recognises them by."""

import functools
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import Apply, Key, Method, Metrics, Variables
from jdistill.methods.dataset.recovery import (
  BlockGradient,
  Rates,
  RecoveryState,
  collect_blocks,
  descend,
  sre2l_blocks,
  start_blocks,
)
from jdistill.methods.dataset.sre2l import check_batch_norm, recover_loss, recovery_augmentation
from jdistill.ops.cam import KINDS, class_maps
from jdistill.ops.checks import check_positive, check_rank
from jdistill.schema import Above, Count, NonNegative, Positive, Range, Size, validated
from jdistill.synthetic import SyntheticSet

_ANYWHERE = (-np.inf, np.inf)
REFINED = ("non_critical", "critical", "all", "nothing")


def non_critical_mask(maps: jax.Array, *, cutoff: float) -> jax.Array:
  """`max(0, cutoff - C)`: 0 where a place matters, and the more the less it does.

  Args:
    maps: C, `[B, height, width]` class maps in [0, 1].
    cutoff: the paper's epsilon, above 0. At 1 only places with C = 1 are left alone, above it none.

  Returns:
    `[B, height, width, 1]`, without gradient.

  Raises:
    ValueError: `cutoff` is not positive, so that nothing would move, or maps of another rank.

  References:
    Tran et al. (arXiv 2503.18267), sec. 3.3.
  """
  check_positive("non_critical_mask", cutoff=cutoff)
  check_rank("non_critical_mask", "maps", maps, 3)
  return jax.lax.stop_gradient(jnp.maximum(cutoff - maps, 0))[..., None]


@validated("method")
def nrr_dd(
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
  clip_pixels: bool = True,
  refined: Literal[REFINED] = "non_critical",
  cutoff: Positive = 0.5,
  class_map: Literal[KINDS] = "cam",
  refresh_every: Size = 0,
) -> Method:
  """Builds NRR-DD's refinement of the pixels that a network does not recognise an image by.

  As `jdistill.methods.dataset.sre2l` without its directions of weights, in blocks and by Adam along the gradient of
  `mean_i CE(f(a(x_i)), y_i) + r_bn bn_stat_loss(a(x))`, but with

      x <- x - rate M * adam(gradient),   M = max(0, cutoff - C)

  where C is the class map of the image for its class in [0, 1] (`jdistill.ops.cam.class_maps`), by the teacher on the
  image without augmentation. M multiplies Adam's update and not the gradient: where it is 0 a pixel keeps its value
  to the bit. The paper writes `M eta grad`, without an optimiser; Adam and everything about it are those of SRe2L.

  The paper's code was not compared. Not confirmed are `cutoff`, `iterations`, `image_lr`, whether M is computed more
  than once, and whether images are cropped, rolled and clipped as in SRe2L.

  Args:
    teacher_apply: the trained network, with batch norm.
    initial: where refinement starts (`jdistill.synthetic.critical.critical_start`), with integer labels.
    pixel_range: lowest and highest value per channel in network space, `[channels]` each.
    iterations: updates per block.
    block_size: images per block, whose statistics are matched; clipped to the size of the set.
    image_lr, b1, b2: Adam on images; the rate falls to 0 along a half cosine over a block.
    r_bn: weight of the batch-norm statistics, the paper's alpha_bn.
    variance_weight, first_layer_multiplier: see `jdistill.losses.bn_stat_loss`.
    crop_scale: smallest share of the area that a random resized crop keeps; `None` for no crops.
    flip_images: mirror with probability 1/2.
    jitter: largest roll in pixels.
    clip_pixels: clip to the pixel range after every update, critical pixels too; real images lie within it.
    refined: which pixels move: `"non_critical"`; for comparison `"critical"`, with `max(0, cutoff - (1 - C))`, `"all"`,
      with M = 1, which is SRe2L, or `"nothing"`, with M = 0.
    cutoff: the paper's epsilon: pixels with a greater class map stay.
    class_map: `"cam"`, for networks that average their last map before a linear head, `"grad_cam"` or `"grad_cam_pp"`.
    refresh_every: updates after which M is computed anew; 0 for once, from the initial image.

  Returns:
    A `Method` whose stream gives the teacher's `Variables` in every step (`jdistill.methods.dataset.sre2l
    .teacher_stream`), and whose result is a `SyntheticSet` in the order of `initial`. The metric `refine/mask` is the
    mean of M.

  Raises:
    UserError: `cutoff` that is not positive.
    ValueError: soft labels; in `init`, a teacher without batch norm, or without the class maps that are asked for.

  References:
    Tran et al., "Enhancing Dataset Distillation via Non-Critical Region Refinement" (arXiv 2503.18267), sec. 3.3.
  """
  if np.ndim(initial.labels) == 2:
    raise ValueError("initial: has soft labels, and a class map is of one class; give integer labels")
  blocks = sre2l_blocks(initial.labels, block_size)
  augment = recovery_augmentation(crop_scale=crop_scale, flip_images=flip_images, jitter=jitter)
  weights = {"r_bn": r_bn, "variance_weight": variance_weight, "first_layer_multiplier": first_layer_multiplier}
  loss = functools.partial(recover_loss, teacher_apply, **weights)
  mask = functools.partial(_mask, teacher_apply, refined=refined, cutoff=cutoff, kind=class_map)
  if not clip_pixels:
    pixel_range = tuple(
      jnp.full_like(jnp.asarray(end), bound) for end, bound in zip(pixel_range, _ANYWHERE, strict=True)
    )
  rates = Rates(iterations, image_lr, b1, b2, pixel_range)

  def init(key: Key, teacher: Variables) -> RecoveryState:
    del key
    x, y = (jnp.asarray(leaf)[blocks[0]] for leaf in (initial.images, initial.labels))
    check_batch_norm(teacher_apply, teacher, x)
    _check_maps(mask, teacher, x, y)
    return start_blocks(initial, blocks, jnp.zeros((*x.shape[:3], 1), x.dtype))

  def step(key: Key, state: RecoveryState, teacher: Variables) -> tuple[RecoveryState, Metrics]:
    def gradient(number: jax.Array, place: jax.Array, x: jax.Array, y: jax.Array) -> BlockGradient:
      del number
      due = place % refresh_every == 0 if refresh_every else place == 0
      own = jax.lax.cond(due, lambda: mask(teacher, x, y), lambda: state.carried)
      record = augment.sample(key, x.shape)
      (_, metrics), grads = jax.value_and_grad(lambda x: loss(teacher, augment.apply(record, x), y), has_aux=True)(x)
      return BlockGradient(grads, metrics | {"refine/mask": jnp.mean(own)}, own, own)

    return descend(state, gradient, rates)

  return Method(init, step, functools.partial(collect_blocks, blocks=blocks), steps=len(blocks) * iterations)


def _mask(
  apply: Apply, teacher: Variables, x: jax.Array, y: jax.Array, *, refined: str, cutoff: float, kind: str
) -> jax.Array:
  """M of images `[B, height, width, channels]`: `[B, height, width, 1]` in their type."""
  if refined in ("all", "nothing"):
    return jnp.full((*x.shape[:3], 1), float(refined == "all"), x.dtype)
  maps = class_maps(apply, teacher, x, y, kind=kind)
  return non_critical_mask(maps if refined == "non_critical" else 1 - maps, cutoff=cutoff).astype(x.dtype)


def _check_maps(mask, teacher: Variables, x: jax.Array, y: jax.Array) -> None:
  """Raises `ValueError` of the teacher where its class maps do not exist."""
  try:
    jax.eval_shape(mask, teacher, x, y)
  except ValueError as error:
    raise ValueError(f"teacher_apply: {str(error).partition(': ')[2]} (method.class_map='grad_cam')") from error
