"""Masked autoencoding as a recipe: a network gives the patches of an image that it did not see, without any labels."""

from typing import Annotated

import jax
import jax.numpy as jnp

from jdistill.base import Batch, Key, UserError
from jdistill.methods.knowledge.recipe import Recipe, StepOutputs, Term, student_features
from jdistill.ops.patch_masks import DECODED, DROPPED, PATCHES, patches_kept, random_patch_mask
from jdistill.schema import Above, Count, Range, validated


@validated("method")
def mae(*, mask_ratio: Annotated[float, Above(0), Range(high=0.99)] = 0.75, mask_side: Count = 16) -> Recipe:
  """Masked autoencoders (arXiv 2111.06377): the mean squared error of the pixels of patches that were left out.

      L = mean over the patches left out of mean((decoded - pixels)^2)

  of every image, after `train.augment`; what is left out is drawn anew for every image of every update. Pixels are
  those of network space, not normalised within a patch, so that the network fills images. It must decode
  (`student.name="mae"`). Labels are never looked at; what is left for classes is the embedding.

  Args:
    mask_ratio: share of the squares that is left out, 0.75 in the paper; `floor(L (1 - mask_ratio))` are seen.
    mask_side: pixels along a side of a square that is left out or not: a multiple of the network's patch. In the paper
      they are the patches themselves, of 16 pixels.

  Raises:
    UserError: at trace time, a side that does not divide the images, a share that leaves nothing to see, or a network
      that does not decode.
  """

  def masked(key: Key, batch: Batch) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
    height, width = batch.x.shape[1:3]
    if height % mask_side or width % mask_side:
      raise UserError(f"method.mask_side={mask_side}: does not divide images of {height}x{width}; give a divisor")
    count = height // mask_side * (width // mask_side)
    try:
      patches_kept(count, mask_ratio)
    except ValueError as error:
      raise UserError(f"method.mask_ratio={mask_ratio}: leaves none of {count} squares to see; lower it") from error
    return (batch.x, random_patch_mask(key, batch.x.shape[0], count, mask_ratio)), batch.x

  def loss(step: StepOutputs) -> jax.Array:
    taps = step.student.taps
    dropped = taps[DROPPED]  # [B, L]
    error = jnp.mean(jnp.square(taps[DECODED] - taps[PATCHES]), -1)
    return jnp.sum(error * dropped, 1) / jnp.sum(dropped, 1)

  return Recipe(
    {"reconstruction": Term(loss)},
    augmented_inputs=masked,
    predict=student_features,
    probed=True,
    needs=(),
  )
