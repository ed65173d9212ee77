"""HeLlO: labels by a low-rank projector of a public network, and images whose embeddings survive being made smaller."""

import functools
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jdistill.augment.crop import CropRecord
from jdistill.base import Apply, Key, Method, Metrics, UserError, Variables
from jdistill.losses import cross_entropy, hint_loss
from jdistill.methods.dataset.recovery import (
  BlockGradient,
  Rates,
  RecoveryState,
  collect_blocks,
  descend,
  sre2l_blocks,
  start_blocks,
)
from jdistill.ops.affine import resize
from jdistill.ops.lora import Factors, apply_lora
from jdistill.schema import Above, Count, Positive, Range, Size, validated
from jdistill.synthetic import Budget, Feed, Materials, Start, SyntheticSet, start
from jdistill.synthetic.patches import (
  ClassCrops,
  Judges,
  check_candidates,
  check_tiles,
  hard_classes,
  patch_crop,
  picked_crops,
  surest_crops,
  tile_grid,
)


def projector_loss(
  apply: Apply,
  lora: Factors,
  base: Variables,
  x: jax.Array,
  y: jax.Array,
  y_weak: jax.Array,
  *,
  lam: float = 1.0,
  alpha: float = 1.0,
) -> jax.Array:
  """What a label projector is fitted by, `mean_c (f(x)_c - mean_k y_weak_kc)^2 + lam CE(f(x), y)`.

  `f` is the public network with `W + alpha A B` in the place of its kernels `W`. Stage `project` minimises the mean of
  this over a batch, as the recipe `stored_labels(loss="mse", ce_weight=lam)`.

  Args:
    apply: the public network, in evaluation mode.
    lora: the factors, which alone learn.
    base: its variables, with a head of the `C` classes.
    x: `[B, height, width, channels]` real images.
    y: `[B]` their classes.
    y_weak: `[k, B, C]` logits of weak teachers. No gradient.
    lam: weight of the cross entropy; not verified in the paper, nor how several teachers are put together.
    alpha: factor of the change.

  Returns:
    `[B]`.

  Raises:
    UserError: factors of another network.

  References:
    Yu et al., "Heavy Labels Out! Dataset Distillation with Label Space Lightening" (arXiv 2408.08201), sec. 3.
  """
  logits = apply(apply_lora(base.params, lora, alpha=alpha), x, stats=base.stats).logits
  return hint_loss(logits, jnp.mean(y_weak, axis=0)) + lam * cross_entropy(logits, y)


def shrunk(p: jax.Array, factor: int) -> jax.Array:
  """Images `[n, height, width, channels]` at `1 / factor` of their sides: bilinear, averaging over what is lost."""
  return resize(p, (p.shape[1] // factor, p.shape[2] // factor))


def image_roundtrip_loss(
  encoder: Callable[[jax.Array], jax.Array], p: jax.Array, *, factor: int = 2, origin: jax.Array | None = None
) -> jax.Array:
  """How far an embedding moves when an image is made smaller and large again: `mean_d (v(p) - v(up(down(p))))_d^2`.

  Args:
    encoder: `v`, `[n, height, width, channels] -> [n, d]`.
    p: `[n, height, width, channels]` patches in full size.
    factor: by which their sides are divided.
    origin: patches like `p` whose embeddings take the place of `v(p)`, without a gradient; `None` for `p` itself. The
      formula does not say whether `v(p)` moves with the patch (not verified).

  Returns:
    `[n]`.

  References:
    Yu et al. (arXiv 2408.08201), sec. 3, image update.
  """
  again = encoder(resize(shrunk(p, factor), p.shape[1:3]))
  whole = encoder(p) if origin is None else lax.stop_gradient(encoder(origin))
  return jnp.mean(jnp.square(whole - again), axis=-1)


@validated("method")
def patches(
  *,
  mipc: Count = 300,
  num_crop: Count = 5,
  factor: Count = 2,
  patch_scale: Annotated[float, Above(0), Range(high=1)] = 0.08,
  lr_init: Positive = 0.01,
) -> Start:
  """RDED's choice of patches in full size, `ipc factor^2` of every class: what becomes the tiles of `ipc` images.

  Args:
    mipc: real images per class to choose from.
    num_crop: random crops of each, of which the teacher keeps the one that it is surest of.
    factor: tiles along an axis of an image.
    patch_scale: smallest share of the area of a crop.
    lr_init: learning rate for training on the set; students of stored labels have their own.

  References:
    Sun et al. (arXiv 2312.03526), as the start of arXiv 2408.08201.
  """
  plain = start(initial="real", labels="hard", lr_init=lr_init)

  def empty(ipc: int, num_classes: int, image_shape: tuple[int, ...], width: int = 0) -> SyntheticSet:
    check_tiles(image_shape[:2], factor)
    return plain.empty(ipc, num_classes, image_shape, width)

  def pick(found: ClassCrops, judges: Judges, count: int) -> np.ndarray:
    rows, best = surest_crops(judges, found, count, "easy")
    whole = patch_crop(found.images.shape[1:3], 1, patch_scale)
    return np.asarray(whole.apply(CropRecord(jnp.asarray(found.boxes[rows, best])), jnp.asarray(found.images[rows])))

  def make(images, classes, *, ipc: int, num_classes: int, seed: int, teacher_logits, **others) -> SyntheticSet:
    del others
    sizes = {"mipc": mipc, "num_crop": num_crop, "factor": factor, "patch_scale": patch_scale, "seed": seed}
    judges = Judges(teacher_logits, None)
    found = picked_crops(pick, judges, images, classes, count=ipc, num_classes=num_classes, **sizes)
    own = np.repeat(np.arange(num_classes, dtype=np.int32), ipc)
    return SyntheticSet(np.concatenate(found), own, np.float32(lr_init))

  def candidates(labels: np.ndarray, ipc: int, num_classes: int) -> None:
    check_candidates(labels, mipc, ipc, factor, num_classes)

  def budget(ipc: int, num_classes: int, teachers: int) -> Budget:
    del num_classes, teachers
    return Budget(ipc * factor**2, ipc)

  def check(method: Mapping[str, Any], teacher_train: Mapping[str, Any] | None) -> None:
    del method, teacher_train

  return Start(make, empty, check, candidates=candidates, budget=budget)


def encoder_stream(*, image_steps: Size = 100) -> Feed:
  """The stream of `hello`: the variables of the projector in every step, so that they are not part of the program.

  Args:
    image_steps: 0 needs none.
  """

  def own(found: Materials) -> Variables | tuple[()]:
    return found.encoder() if image_steps else ()

  def stream(found: Materials) -> Callable[[int], Variables | tuple[()]]:
    variables = own(found)
    return lambda step: variables

  return Feed(stream, own)


@validated("method")
def hello(
  encoder_apply: Apply,
  initial: SyntheticSet,
  pixel_range: tuple[jax.Array, jax.Array],
  *,
  factor: Count = 2,
  image_steps: Size = 100,
  image_lr: Positive = 0.01,
  block_size: Annotated[int, Range(1)] = 100,
  b1: Annotated[float, Range(0, 0.9999)] = 0.9,
  b2: Annotated[float, Range(0, 0.9999)] = 0.999,
  target: Literal["patch", "origin"] = "patch",
) -> Method:
  """Builds HeLlO's update of images; its labels are those of stage `project`.

  The initial set are patches in full size, `factor^2` for every image. Each step is one update by Adam of the pixels of
  a block of patches along the gradient of `image_roundtrip_loss`, so that their embeddings move little when they are
  made smaller to become tiles. The rate falls from `image_lr` to 0 along a half cosine over the `image_steps` of a
  block, and pixels are clipped to their range. `factor x factor` patches, made smaller, are an image of the result.

  Args:
    encoder_apply: the projector, whose embeddings count.
    initial: patches, class by class, with hard labels (`patches`).
    pixel_range: lowest and highest value per channel in network space, `[channels]` each.
    factor: tiles along an axis.
    image_steps: updates of a block; 0 leaves the patches as they are, which is RDED's set. Not verified, like the rate.
    image_lr: of Adam.
    block_size: patches of an update.
    b1, b2: of Adam.
    target: what the embedding after the way there and back is compared with: that of the patch, which moves with it
      (`"patch"`), or that of the patch before the first update (`"origin"`); not verified in the paper.

  Returns:
    A `Method` with `image_steps` steps per block, one at least, whose stream is `encoder_stream`.

  Raises:
    UserError: updates of patches that are not made smaller, or sides that `factor` does not divide.
    ValueError: soft labels, or patches that do not make whole images.

  References:
    Yu et al., "Heavy Labels Out! Dataset Distillation with Label Space Lightening" (arXiv 2408.08201).
  """
  labels, (classes, each) = np.asarray(initial.labels), hard_classes(initial.labels)
  check_tiles(np.shape(initial.images)[1:3], factor)
  if image_steps and factor == 1:
    raise UserError(
      f"method.image_steps={image_steps}: with factor=1 patches are not made smaller, and nothing moves their "
      "embeddings; set it to 0, or factor to 2"
    )
  if each % factor**2:
    raise ValueError(f"initial: {each} patches of a class make no whole images of {factor**2} tiles")
  blocks = sre2l_blocks(labels, block_size)
  rates = Rates(max(1, image_steps), image_lr if image_steps else 0.0, b1, b2, pixel_range)

  def gradient(encoder: Variables, origins, number, place, x: jax.Array, y: jax.Array) -> BlockGradient:
    del place, y
    embed = lambda p: encoder_apply(encoder.params, p, stats=encoder.stats).embedding  # noqa: E731
    origin = origins[number] if target == "origin" else None

    def loss(p: jax.Array) -> jax.Array:
      return jnp.mean(image_roundtrip_loss(embed, p, factor=factor, origin=origin))

    value, found = jax.value_and_grad(loss)(x)
    return BlockGradient(found, {"images/roundtrip": value}, origins)

  def step(key: Key, state: RecoveryState, batch: Variables | tuple[()]) -> tuple[RecoveryState, Metrics]:
    del key
    if image_steps:
      return descend(state, functools.partial(gradient, batch, state.carried), rates)
    still = lambda number, place, x, y: BlockGradient(jnp.zeros_like(x), {}, state.carried)  # noqa: E731
    return descend(state, still, rates)

  def result(state: RecoveryState) -> SyntheticSet:
    found = collect_blocks(state, blocks=blocks)
    own = found.images.reshape(classes, -1, *found.images.shape[1:])
    made = jnp.concatenate([tile_grid(shrunk(one, factor), factor) for one in own])
    return SyntheticSet(made, found.labels[:: factor**2], found.lr)

  def init(key: Key, batch: Variables | tuple[()]) -> RecoveryState:
    del key, batch
    return start_blocks(initial, blocks, np.asarray(initial.images)[blocks] if target == "origin" else ())

  return Method(init, step, result, steps=max(1, len(blocks) * image_steps))
