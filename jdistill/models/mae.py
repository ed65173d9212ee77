"""A small masked autoencoder: what it sees of an image are some of its patches, and it gives pixels for all of them."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdistill.base import Network, UserError, Variables
from jdistill.models.layers import Dense, Recorder, drawn_later
from jdistill.models.transformer_layers import LayerNorm, Positions, block, check_heads, dense
from jdistill.ops import tokenize_feature_map, untokenize
from jdistill.ops.patch_masks import DECODED, DROPPED, PATCHES, Decode, pixel_mask


class MaskedAutoencoder(nn.Module):
  """A transformer over the patches that are there, and a smaller one that gives the pixels of all patches.

  The input is images `[n, h, w, c]`, or `(images, mask)` with a mask `[n, L']` bool, true where square patches in
  reading order are left out; these are the network's own patches or squares made of several of them. Tokens of the
  encoder attend to patches that are there alone, so that what the images hold elsewhere has no part in anything. (The
  paper's code cuts the others out, which computes the same in less time.) The decoder sees what the encoder gives,
  mapped to `decoder_dim`, with one learned token in every place that was left out. Positions are learned in both; in
  the paper they are fixed waves. There is no class token.

  Taps: `block0` to `block{depth - 1}` are the blocks of the encoder, `[n, L, dim]`; `"patches"` the pixels `[n, L,
  patch * patch * c]`, `"dropped"` the mask of them, `[n, L]` of 0 and 1, and `"decoded"` the pixels that the decoder
  gives. The embedding is the mean of the encoder's tokens that are there, after a last norm, `[n, dim]`. The head on it
  learns only where logits are trained.

  Attributes:
    num_classes: length of the logits.
    patch: side of a patch.
    dim, depth, heads: length of the encoder's tokens, number of its blocks, and their heads, which divide `dim`.
    decoder_dim, decoder_depth, decoder_heads: the same of the decoder.

  References:
    He et al., Masked Autoencoders Are Scalable Vision Learners, CVPR 2022, arXiv:2111.06377.
  """

  num_classes: int
  patch: int = 4
  dim: int = 192
  depth: int = 6
  heads: int = 3
  decoder_dim: int = 96
  decoder_depth: int = 2
  decoder_heads: int = 3

  def __post_init__(self):
    check_heads(self.dim, self.heads)
    check_heads(self.decoder_dim, self.decoder_heads, ("decoder_dim", "decoder_heads"))
    super().__post_init__()

  @nn.compact
  def __call__(
    self, x: jax.Array | tuple[jax.Array, jax.Array], *, train: bool, record: Recorder
  ) -> tuple[jax.Array, jax.Array]:
    images, mask = x if isinstance(x, tuple) else (x, None)
    if any(side % self.patch for side in images.shape[1:3]):
      height, width = images.shape[1:3]
      raise UserError(f"patch: {self.patch} does not divide images of {height}x{width}; choose a divisor of both sides")
    pixels = record.tap(PATCHES, tokenize_feature_map(images, patch=self.patch))  # [n, L, patch * patch * c]
    dropped = record.tap(DROPPED, _of_patches(mask, images, self.patch).astype(images.dtype)) > 0.5
    there = None if mask is None else ~dropped
    x = Positions(name="positions")(dense(pixels, self.dim, "patches"))
    for i in range(self.depth):
      x = record.tap(f"block{i}", block(x, self.heads, f"block{i}_", there))
    x = LayerNorm(name="last_norm")(x)
    kept = (~dropped)[..., None].astype(x.dtype)
    embedding = record.site("embedding", jnp.sum(x * kept, 1) / jnp.sum(kept, 1))
    y = MaskToken(name="mask_token")(dense(x, self.decoder_dim, "decoder_map"), dropped)
    y = Positions(name="decoder_positions")(y)
    for i in range(self.decoder_depth):
      y = block(y, self.decoder_heads, f"decoder{i}_")
    y = LayerNorm(name="decoder_norm")(y)
    record.tap(DECODED, dense(y, pixels.shape[-1], "pixels"))
    return Dense(self.num_classes, name="head")(embedding), embedding


class MaskToken(nn.Module):
  """Puts one learned token, a parameter `bias` of `[dim]` that starts at zero, where `dropped [n, tokens]` is true."""

  @nn.compact
  def __call__(self, x: jax.Array, dropped: jax.Array) -> jax.Array:
    token = self.param("bias", drawn_later, x.shape[-1:]).reshape(1, 1, -1)
    return jnp.where(dropped[..., None], token, x)


def _of_patches(mask: jax.Array | None, images: jax.Array, patch: int) -> jax.Array:
  """A mask of squares as one of the network's patches, `[n, L]` bool."""
  height, width = images.shape[1:3]
  if mask is None:
    return jnp.zeros((images.shape[0], height // patch * (width // patch)), bool)
  tokens = tokenize_feature_map(pixel_mask(mask, (height, width)), patch=patch)
  if mask.shape[1] > tokens.shape[1] or tokens.shape[1] % mask.shape[1]:
    raise UserError(
      f"patch: masks of {mask.shape[1]} squares for {tokens.shape[1]} patches of side {patch}; mask the patches, or "
      "squares that are made of them"
    )
  return tokens[:, :, 0]


@functools.lru_cache(maxsize=16)
def _decoded(network: Network):
  def decode(variables: Variables, x: jax.Array, mask: jax.Array) -> jax.Array:
    out = network.apply(variables.params, (x, mask), stats=variables.stats)
    return untokenize(out.taps[DECODED], x.shape[1:3])

  return decode


def decoder(network: Network, variables: Variables) -> Decode:
  """A trained masked autoencoder as `(images, mask) -> images`, for `jdistill.ops.patch_masks.reconstruct`."""
  return functools.partial(_decoded(network), variables)
