"""Mixing of the colour statistics of images. Not an `Augmentation`: an image needs its partner from the same batch."""

import jax
import jax.numpy as jnp

from jdistill.base import Key, UserError
from jdistill.ops.precision import widen


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
