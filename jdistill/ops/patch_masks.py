"""Which patches of an image are left out, and images in which something else stands in their place.

A mask `[B, L]` is true for patches that are left out. The `L` patches of an image are squares that do not overlap, in
reading order.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jdistill.ops.checks import check_rank
from jdistill.ops.tokens import square_side, untokenize

# taps of a network that decodes: pixels of all patches [n, L, length], which are left out [n, L], what it gives for all
PATCHES, DROPPED, DECODED = "patches", "dropped", "decoded"
Decode = Callable[[jax.Array, jax.Array], jax.Array]  # (x, mask) -> images of the shape of x


def patches_kept(count: int, theta: float) -> int:
  """`floor(L (1 - theta))` of `L` patches.

  Args:
    count: `L`.
    theta: the share that is left out, in `[0, 1)`; 0.2 in dataset quantization.

  Raises:
    ValueError: `theta` outside `[0, 1)`, or one that leaves no patch.
  """
  if not 0 <= theta < 1:
    raise ValueError(f"theta={theta}: must be at least 0 and below 1")
  kept = math.floor(round(count * (1 - theta), 9))  # 10 (1 - 0.9) is 1, and a little less in floating point
  if kept < 1:
    raise ValueError(f"theta={theta}: keeps none of the {count} patches; lower it to at most {1 - 1 / count:.4g}")
  return kept


def patch_mask_from_cam(cam: jax.Array, theta: float) -> jax.Array:
  """Leaves out all but the `floor(L (1 - theta))` patches of the highest importance; of equal ones the first are kept.

  Args:
    cam: `[B, g, g]` importance of every patch, `L = g^2`; may have sides that differ. No gradient.
    theta: the share that is left out, in `[0, 1)`.

  Returns:
    `[B, L]` bool, true where a patch is left out.

  Raises:
    ValueError: `cam` without three axes, or what `patches_kept` refuses.

  References:
    Zhou et al., "Dataset Quantization" (arXiv 2308.10524), section 3.3; `cam` is there the Grad-CAM++ map of the
    predicted class (`jdistill.ops.cam.grad_cam_plus_plus`), in [0, 1] and resized to 14 x 14.
  """
  check_rank("patch_mask_from_cam", "cam", cam, 3)
  return _highest_kept(jnp.reshape(cam, (cam.shape[0], -1)), theta)


def random_patch_mask(key: jax.Array, images: int, count: int, theta: float) -> jax.Array:
  """As many patches left out of every image as by `patch_mask_from_cam`, drawn uniformly: masked autoencoders' masks.

  Args:
    key: `jax.random.key`.
    images: `B`.
    count: `L`.
    theta: the share that is left out, in `[0, 1)`.

  Returns:
    `[B, L]` bool.

  Raises:
    ValueError: what `patches_kept` refuses.
  """
  return _highest_kept(jax.random.uniform(key, (images, count)), theta)


def _highest_kept(importance: jax.Array, theta: float) -> jax.Array:
  kept = patches_kept(importance.shape[1], theta)
  order = jnp.argsort(-jax.lax.stop_gradient(importance), axis=1, stable=True)
  rows = jnp.arange(importance.shape[0])[:, None]
  return jnp.ones(importance.shape, bool).at[rows, order[:, :kept]].set(False)


def pixel_mask(mask: jax.Array, sides: tuple[int, int]) -> jax.Array:
  """A mask of patches for every pixel: `[B, L] -> [B, height, width, 1]` bool.

  Raises:
    ValueError: images of these sides do not have `L` square patches.
  """
  check_rank("pixel_mask", "mask", mask, 2)
  side = square_side(mask.shape[1], sides)
  if not side:
    raise ValueError(f"pixel_mask: images of {sides[0]}x{sides[1]} pixels do not have {mask.shape[1]} square patches")
  return untokenize(jnp.repeat(mask[:, :, None], side**2, axis=2), sides)


def reconstruct(x: jax.Array, mask: jax.Array, decode: Decode) -> jax.Array:
  """`x (1 - mask) + decode(x, mask) mask`: what is left of an image, and something else for the rest.

  Args:
    x: `[B, height, width, channels]`.
    mask: `[B, L]` bool, true where a patch is left out. What stands there in `x` is set to 0 before anything sees it.
    decode: gives whole images: a masked autoencoder (`jdistill.models.mae.decoder`), `mean_of_kept` or `zeros`.

  Returns:
    The shape of `x`.

  Raises:
    ValueError: images that do not have `L` patches, or a `decode` that gives another shape.

  References:
    Zhou et al., "Dataset Quantization" (arXiv 2308.10524), section 3.3.
  """
  check_rank("reconstruct", "x", x, 4)
  left_out = pixel_mask(mask, x.shape[1:3])
  x = jnp.where(left_out, 0, x)
  decoded = decode(x, mask)
  if decoded.shape != x.shape:
    raise ValueError(f"reconstruct: decode gives {decoded.shape} for images {x.shape}")
  return jnp.where(left_out, decoded.astype(x.dtype), x)


def mean_of_kept(x: jax.Array, mask: jax.Array) -> jax.Array:
  """Images of one colour, the mean over the pixels of each that are not left out: a `decode` to compare with."""
  kept = (~pixel_mask(mask, x.shape[1:3])).astype(x.dtype)
  mean = jnp.sum(x * kept, (1, 2), keepdims=True) / jnp.sum(kept, (1, 2), keepdims=True)
  return jnp.broadcast_to(mean, x.shape)


def zeros(x: jax.Array, mask: jax.Array) -> jax.Array:
  """Images of zeros, in network space the mean of the data where that is standardised: a `decode` to compare with."""
  del mask
  return jnp.zeros_like(x)
