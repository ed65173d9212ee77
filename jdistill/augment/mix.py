"""Mixing each image with a partner from the same batch: cutmix, mixup, and exchange of colour statistics."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jdistill.augment.basic import check_replay, check_shape
from jdistill.base import Augmentation, Key, PyTree, UserError
from jdistill.ops.precision import widen


class MixRecord(NamedTuple):
  """What `cutmix` or `mixup` drew for one batch.

  Attributes:
    partner: `[batch]` int32, a permutation: with which image each one is mixed.
    share: `[]` float32, the share that each image keeps of itself.
    box: `[4]` int32, `(top, left, bottom, right)` in pixels of what cutmix pastes, the ends excluded; zeros of mixup.
  """

  partner: jax.Array
  share: jax.Array
  box: jax.Array


def cutmix(alpha: float = 1.0) -> Augmentation:
  """CutMix: one rectangle per batch, in which each image shows the pixels of its partner.

  With `lam ~ Beta(alpha, alpha)` the rectangle has `int(height sqrt(1 - lam))` rows and `int(width sqrt(1 - lam))`
  columns (each rounded down to an even number, as in the released code) around a centre that is uniform over the
  pixels; what lies beyond the border is cut off. `MixRecord.share` is the share of pixels that really stays, which is
  what mixed labels need.

  Args:
    alpha: of the Beta distribution, > 0; 1 is uniform.

  Returns:
    `Augmentation` whose record is a `MixRecord`. Couples the rows of the batch.

  Raises:
    UserError: `alpha <= 0`; a shape is not `(batch, height, width, channels)`; a record of another batch size.

  References:
    Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features" (arXiv
    1905.04899), alg. A1.
  """
  _check_alpha(alpha)

  def sample(key: Key, shape: tuple[int, ...]) -> MixRecord:
    check_shape(shape)
    for_partner, for_share, for_centre = jax.random.split(key, 3)
    sides = jnp.array(shape[1:3], jnp.int32)
    cut = jnp.sqrt(1 - jax.random.beta(for_share, alpha, alpha, (), jnp.float32))
    half = jnp.floor(cut * sides.astype(jnp.float32)).astype(jnp.int32) // 2
    centre = jax.random.randint(for_centre, (2,), jnp.zeros_like(sides), sides, jnp.int32)
    low, high = jnp.clip(centre - half, 0, sides), jnp.clip(centre + half, 0, sides)
    share = 1 - jnp.prod(high - low).astype(jnp.float32) / (shape[1] * shape[2])
    return MixRecord(_partners(for_partner, shape[0]), share, jnp.concatenate([low, high]))

  def apply(record: MixRecord, x: jax.Array) -> jax.Array:
    check_replay(record.partner.shape[0], x)
    rows, columns = (jnp.arange(side, dtype=jnp.int32) for side in x.shape[1:3])
    top, left, bottom, right = record.box
    inside = ((rows >= top) & (rows < bottom))[:, None] & ((columns >= left) & (columns < right))[None]
    return jnp.where(inside[None, :, :, None], x[record.partner], x)

  return Augmentation(sample, apply)


def mixup(alpha: float = 0.8) -> Augmentation:
  """Mixup: `x_i <- lam x_i + (1 - lam) x_partner(i)` with one `lam ~ Beta(alpha, alpha)` per batch.

  Args:
    alpha: of the Beta distribution, > 0.

  Returns:
    `Augmentation` whose record is a `MixRecord`. Couples the rows of the batch.

  Raises:
    UserError: `alpha <= 0`; a shape is not `(batch, height, width, channels)`; a record of another batch size.

  References:
    Zhang et al., "mixup: Beyond Empirical Risk Minimization" (arXiv 1710.09412), eq. 1.
  """
  _check_alpha(alpha)

  def sample(key: Key, shape: tuple[int, ...]) -> MixRecord:
    check_shape(shape)
    for_partner, for_share = jax.random.split(key)
    share = jax.random.beta(for_share, alpha, alpha, (), jnp.float32)
    return MixRecord(_partners(for_partner, shape[0]), share, jnp.zeros(4, jnp.int32))

  def apply(record: MixRecord, x: jax.Array) -> jax.Array:
    check_replay(record.partner.shape[0], x)
    return mix_targets(record, x)

  return Augmentation(sample, apply)


def mix_targets(record: MixRecord, targets: jax.Array) -> jax.Array:
  """Targets of mixed images: `share targets_i + (1 - share) targets_partner(i)`, for `[batch, ...]` probabilities."""
  share = record.share.astype(targets.dtype)
  return share * targets + (1 - share) * targets[record.partner]


def mixed(record: PyTree) -> MixRecord | None:
  """The last record of `cutmix` or `mixup` within that of a composition; `None` where there is none."""
  leaves = jax.tree.leaves(record, is_leaf=lambda node: isinstance(node, MixRecord))
  return next((leaf for leaf in reversed(leaves) if isinstance(leaf, MixRecord)), None)


def _partners(key: Key, size: int) -> jax.Array:
  return jax.random.permutation(key, size).astype(jnp.int32)


def _check_alpha(alpha: float) -> None:
  if not alpha > 0:
    raise UserError(f"alpha: {alpha}; give a number > 0")


def mix_distribution(key: Key, x: jax.Array, *, beta: float = 0.1, eps: float = 1e-6) -> jax.Array:
  """KD^3's MixDistribution: each image takes on part of the contrast and brightness of another one of the batch.

  With `mu`, `sig` the mean and standard deviation per image and channel, `mu'`, `sig'` those of the partner, and
  `lam ~ Beta(beta, beta)` per image:

      x' = (x - mu) / sig * (lam sig + (1 - lam) sig') + lam mu + (1 - lam) mu'

  Partners are a random permutation of the batch, so an image may be its own. Couples the rows of the batch.

  Args:
    key: for the permutation and `lam`.
    x: `[B, H, W, channels]` images, normalised as the networks see them.
    beta: of the Beta distribution, > 0; small ones mostly keep an image as it is or exchange its statistics whole.
    eps: added to variances, so that images of one colour are safe (unverified).

  Returns:
    An array like `x`. Differentiable in `x`, with the statistics held constant.

  Raises:
    UserError: if `x` is not a batch of at least two images, or `beta <= 0`.

  Cost: elementwise.

  References:
    Tang et al., "Distribution Shift Matters for Knowledge Distillation with Webly Collected Images"
    (arXiv 2307.11469), as in its code.
  """
  if x.ndim != 4:
    raise UserError(f"x: shape {x.shape}; images are (batch, height, width, channels)")
  if x.shape[0] < 2:
    raise UserError(f"x: a batch of {x.shape[0]}; mixing needs at least 2 images")
  if not beta > 0:
    raise UserError(f"beta: {beta}; give a number > 0")
  for_partner, for_share = jax.random.split(key)
  partner = jax.random.permutation(for_partner, x.shape[0])
  share = jax.random.beta(for_share, beta, beta, (x.shape[0],))
  return exchange_statistics(x, partner, share, eps=eps)


def exchange_statistics(x: jax.Array, partner: jax.Array, share: jax.Array, *, eps: float = 1e-6) -> jax.Array:
  """What `mix_distribution` does once it has drawn.

  Args:
    x: `[B, H, W, channels]`.
    partner: `[B]` integers, the image whose statistics each image takes on.
    share: `[B]` in `[0, 1]`, how much it keeps of its own.
    eps: added to variances.

  Returns:
    An array like `x`.
  """
  wide = widen(x)
  mean = jax.lax.stop_gradient(jnp.mean(wide, axis=(1, 2), keepdims=True))
  spread = jax.lax.stop_gradient(jnp.sqrt(jnp.var(wide, axis=(1, 2), keepdims=True) + eps))
  own = share.astype(wide.dtype).reshape(-1, 1, 1, 1)
  new_mean = own * mean + (1 - own) * mean[partner]
  new_spread = own * spread + (1 - own) * spread[partner]
  return ((wide - mean) / spread * new_spread + new_mean).astype(x.dtype)
