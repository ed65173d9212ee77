"""A small encoder and decoder that classifies every pixel."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdistill.models.layers import Conv, Recorder, conv_norm, pool
from jdistill.ops import relu


class SegNet(nn.Module):
  """`levels` of convolution and max pooling, a bottleneck, and as many of enlarging and convolution with skips.

  Each level is one 3x3 convolution with batch norm and ReLU, with `width * 2**level` filters; the bottleneck has
  `width * 2**levels`. On the way up the map is doubled by repetition, the encoder's map of that size is concatenated,
  and a 1x1 convolution at the end gives the logits `[n, h, w, num_classes]`, one vector per pixel. Every loss on them
  has to be one for pixels.

  Taps: `block0` to `block{levels - 1}` are the encoder's levels before pooling, `block{levels}` is the bottleneck, and
  the rest is the decoder. The embedding is the mean of the bottleneck, `[n, width * 2**levels]`; it summarises an image
  and does not enter the head, so replacing it changes no logits.

  Attributes:
    num_classes: length of a pixel's logits.
    width: filters at full size.
    levels: halvings of the map.

  References:
    Ronneberger, Fischer & Brox, U-Net: Convolutional Networks for Biomedical Image Segmentation, MICCAI 2015,
    arXiv:1505.04597; much smaller.
  """

  num_classes: int
  width: int = 16
  levels: int = 2

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, record: Recorder) -> tuple[jax.Array, jax.Array]:
    layer = functools.partial(conv_norm, train=train, record=record)
    skips = []
    for level in range(self.levels):
      x = record.tap(f"block{level}", relu(layer(x, "down_", level, self.width * 2**level)))
      skips.append(x)
      x = pool(x, "max")
    x = record.tap(f"block{self.levels}", relu(layer(x, "bottleneck_", "", self.width * 2**self.levels)))
    embedding = record.site("embedding", jnp.mean(x, (1, 2)))
    for level in reversed(range(self.levels)):
      x = jnp.concatenate([enlarge(x, skips[level].shape[1:3]), skips[level]], axis=-1)
      x = relu(layer(x, "up_", level, self.width * 2**level))
      x = record.tap(f"block{2 * self.levels - level}", x)
    return Conv(self.num_classes, 1, 0, name="head")(x), embedding


def enlarge(x: jax.Array, size: tuple[int, int]) -> jax.Array:
  """Doubles a map by repetition; an odd last row or column that pooling dropped repeats its neighbour.

  Args:
    x: `[n, h, w, c]`.
    size: `(height, width)` before the pooling; a map that is as large already was not pooled, and passes unchanged.

  Returns:
    `[n, *size, c]`.
  """
  n, height, width, channels = x.shape
  if (height, width) == size:
    return x
  x = jnp.broadcast_to(x[:, :, None, :, None], (n, height, 2, width, 2, channels))
  x = x.reshape(n, 2 * height, 2 * width, channels)
  return jnp.pad(x, ((0, 0), (0, size[0] - 2 * height), (0, size[1] - 2 * width), (0, 0)), mode="edge")
