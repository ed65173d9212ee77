"""Layers of EDM's networks (arXiv 2206.00364): group norms with parameters, noise features, and their one block.

Layers are named after the files of NVlabs/edm, so that `jdistill.models.weights` reads them: `enc64_block0_conv0` is
`enc.64x64_block0.conv0` there. Names that end in `_zero` are of layers that start at zero.
"""

import math
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdistill.base import UserError
from jdistill.models.denoiser_layers import up2
from jdistill.models.layers import Conv, Dense, drawn_later
from jdistill.ops import avg_pool2
from jdistill.ops.group_norm import channel_moments, group_scaling, scaled
from jdistill.ops.precision import widen
from jdistill.ops.spatial import along_channels

_GROUPS, _SMALLEST = 32, 4  # groups at most, and channels of a group at least
_LONGEST_WAVE = 10_000
_RESAMPLE = {"": lambda x: x, "up": up2, "down": avg_pool2}


class Block(NamedTuple):
  """One block of a network.

  Attributes:
    name: of its layers.
    channels: of what it gives.
    resample: `"up"` repeats every place as 2x2, `"down"` takes means of 2x2 places, both before the first convolution.
    heads: of self-attention behind the convolutions; 0 for none.
  """

  name: str
  channels: int
  resample: Literal["", "up", "down"] = ""
  heads: int = 0


class Style(NamedTuple):
  """What all blocks of a network have in common.

  Attributes:
    scaled: whether features scale and shift what the second norm gives, or else shift what enters it.
    gain: factor of what a block gives, and of what its attention gives.
    epsilon: of the norms.
    projected: whether the skip connection of a block that resamples has a convolution although channels stay.
  """

  scaled: bool = True
  gain: float = 1.0
  epsilon: float = 1e-5
  projected: bool = False


class ScaledGroupNorm(nn.Module):
  """Every group of neighbouring channels of an example to zero mean and unit variance, times `scale`, plus `bias`.

  There are 32 groups, or as many as have four channels where these are fewer.

  Attributes:
    epsilon: added to the variance.
  """

  epsilon: float = 1e-5

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    channels = x.shape[-1]
    groups = min(_GROUPS, channels // _SMALLEST)
    if not groups or channels % groups:
      raise UserError(f"width: maps of {channels} channels have no {max(groups, 1)} groups of {_SMALLEST} or more")
    scale, bias = (along_channels(widen(self.param(name, drawn_later, (channels,))), 2) for name in ("scale", "bias"))
    gain, shift = group_scaling(channel_moments(x), groups, self.epsilon)
    return scaled(x, (gain * scale, shift * scale + bias))


def octave_features(noise: jax.Array, size: int, *, endpoint: bool = False) -> tuple[jax.Array, jax.Array]:
  """Cosines and sines of `noise / 10000^(i / half)` for `i < half = size / 2`: `[n] -> [n, half], [n, half]`.

  Args:
    noise: `[n]`.
    size: an even number.
    endpoint: whether the last divisor is 10,000 itself: `half - 1` in the place of the exponent's `half`.
  """
  half = size // 2
  exponents = jnp.arange(half, dtype=jnp.float32) / (half - endpoint)
  angles = widen(noise)[:, None] * (1 / _LONGEST_WAVE) ** exponents[None]
  return jnp.cos(angles), jnp.sin(angles)


def edm_block(module: nn.Module, x: jax.Array, features: jax.Array, block: Block, style: Style) -> jax.Array:
  """`gain (skip(x) + conv1(silu(h)))` with `h` of `conv0(silu(norm0(x)))` and the features, then attention.

  With `a = affine(features)`, `h` is `norm1(.) (1 + a_0) + a_1` where the style is `scaled`, else `norm1(. + a)`.
  Attention is `gain (x + proj(attend(qkv(norm2(x)))))`.

  Args:
    module: whose layers these are, for `nn.remat`.
    x: `[n, h, w, c]`.
    features: `[n, size]`.
    block, style: which block.

  Returns:
    `[n, h', w', block.channels]`.
  """
  del module
  name, resampled = block.name, _RESAMPLE[block.resample]

  def normed(number: int, x: jax.Array) -> jax.Array:
    return ScaledGroupNorm(style.epsilon, name=f"{name}_norm{number}")(x)

  hidden = Conv(block.channels, 3, 1, name=f"{name}_conv0")(resampled(jax.nn.silu(normed(0, x))))
  own = Dense(block.channels * (1 + style.scaled), name=f"{name}_affine")(features)[:, None, None]
  if style.scaled:
    scale, shift = jnp.split(own, 2, axis=-1)
    hidden = normed(1, hidden) * (1 + scale) + shift
  else:
    hidden = normed(1, hidden + own)
  hidden = Conv(block.channels, 3, 1, name=f"{name}_conv1_zero")(jax.nn.silu(hidden))
  skip = resampled(x)
  if x.shape[-1] != block.channels or (block.resample and style.projected):
    skip = Conv(block.channels, 1, 0, name=f"{name}_skip")(skip)
  x = (skip + hidden) * style.gain
  if not block.heads:
    return x
  mixed = attend(Conv(3 * block.channels, 1, 0, name=f"{name}_qkv")(normed(2, x)), block.heads)
  return (x + Conv(block.channels, 1, 0, name=f"{name}_proj_zero")(mixed)) * style.gain


def attend(qkv: jax.Array, heads: int) -> jax.Array:
  """`softmax(Q K^T / sqrt(c / heads)) V` of all places of a map, per head: `[n, h, w, 3 c] -> [n, h, w, c]`.

  Channel `(head c / heads + i) 3 + j` is number `i` of the head's query, key or value, for `j` from 0 to 2. Scores are
  float32.
  """
  n, height, width, channels = qkv.shape
  parts = qkv.reshape(n, height * width, heads, channels // 3 // heads, 3)
  queries, keys, values = (parts[..., number] for number in range(3))
  keys = keys / math.sqrt(keys.shape[-1])
  weights = jax.nn.softmax(jnp.einsum("nqhd,nkhd->nhqk", widen(queries), widen(keys)), axis=-1)
  return jnp.einsum("nhqk,nkhd->nqhd", weights.astype(values.dtype), values).reshape(n, height, width, -1)
