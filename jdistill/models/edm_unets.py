"""The U-Nets of EDM's released models: ADM for ImageNet-64, and DDPM++ for CIFAR-10, FFHQ-64 and AFHQv2-64."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdistill.base import UserError
from jdistill.diffusion import BOTTLENECK, Noisy
from jdistill.models.denoisers import ROWS, ZERO, DenoisingNetwork
from jdistill.models.edm_layers import Block, ScaledGroupNorm, Style, edm_block, octave_features
from jdistill.models.layers import Conv, Dense, Recorder
from jdistill.ops.precision import widen


class EDMUNet(DenoisingNetwork):
  """An encoder and a decoder of `edm_block`s at falling and rising resolutions, with a skip connection of every map.

  The site `"bottleneck"` is what the encoder ends with, `[n, h, w, c]`, which DMD2's discriminator reads; its mean is
  the embedding. No dropout, which is for training from the beginning. Images are square.

  Attributes:
    width: channels are multiples of it.
    multiples: of each level; all but the last halve the sides.
    depth: blocks of a level on the way down; one more on the way up.
    attention_sides: sides of the maps whose blocks have self-attention; the first block at the lowest level always has.
    features: length of the vector of noise level and condition.
    remat: whether what blocks compute is computed again for gradients instead of being kept.
    dtype: `"bfloat16"` to compute in it, with norms, scores of attention and EDM's scalings in float32; `"params"` for
      the type of the parameters.
  """

  width: int = 128
  multiples: tuple[int, ...] = (2, 2, 2)
  depth: int = 4
  attention_sides: tuple[int, ...] = (16,)
  features: int = 512
  remat: bool = False
  dtype: str = "params"

  @property
  def computes_in(self) -> jnp.dtype | None:
    return None if self.dtype == "params" else jnp.dtype(self.dtype)

  @nn.compact
  def __call__(self, noisy: Noisy, *, train: bool, record: Recorder) -> tuple[jax.Array, jax.Array]:
    sides = self._sides(noisy.x.shape)
    about = self._about(noisy)
    x = Conv(self._stem(), 3, 1, name=f"enc{sides[0]}_conv")(noisy.x)
    skips = [x]
    for level, (side, multiple) in enumerate(zip(sides, self.multiples, strict=True)):
      blocks = [Block(f"enc{side}_down", x.shape[-1], "down")] if level else []
      channels = self.width * multiple
      heads = self._heads(channels) if side in self.attention_sides else 0
      blocks += [Block(f"enc{side}_block{i}", channels, heads=heads) for i in range(self.depth)]
      for block in blocks:
        x = self._block(x, about, block)
        skips.append(x)
    lowest = record.tap(BOTTLENECK, widen(x) if self.computes_in else x)
    x = skips[-1] = lowest.astype(x.dtype)
    for side, multiple in reversed(list(zip(sides, self.multiples, strict=True))):
      x = self._up(x, about, side, skips, lowest=side == sides[-1], channels=self.width * multiple)
    return self._last(x, sides[0], noisy.x.shape[-1]), jnp.mean(lowest, (1, 2))

  def _up(
    self, x: jax.Array, about: jax.Array, side: int, skips: list[jax.Array], *, lowest: bool, channels: int
  ) -> jax.Array:
    """A level of the decoder, which takes its maps of the encoder from the end of `skips`."""
    first = x.shape[-1]
    blocks = [Block(f"dec{side}_in0", first, heads=self._heads(first)), Block(f"dec{side}_in1", first)]
    for block in blocks if lowest else [Block(f"dec{side}_up", first, "up")]:
      x = self._block(x, about, block)
    for i in range(self.depth + 1):
      heads = self._heads(channels) if side in self.attention_sides and self._attends(i) else 0
      x = jnp.concatenate([x, skips.pop()], axis=-1)
      x = self._block(x, about, Block(f"dec{side}_block{i}", channels, heads=heads))
    return x

  def _block(self, x: jax.Array, about: jax.Array, block: Block) -> jax.Array:
    call = nn.remat(edm_block, static_argnums=(3, 4)) if self.remat else edm_block
    return call(self, x, about, block, self._style())

  def _sides(self, shape: tuple[int, ...]) -> list[int]:
    """Sides of the maps of all levels."""
    levels, (height, width) = len(self.multiples), shape[1:3]
    if height != width:
      raise UserError(f"image_shape: {height}x{width} is not square, as EDM's networks need it; crop or pad")
    if height % 2 ** (levels - 1):
      raise UserError(
        f"multiples: {levels} levels halve sides {levels - 1} times, and {2 ** (levels - 1)} does not divide "
        f"{height}x{width}; name fewer"
      )
    sides = [height >> level for level in range(levels)]
    if unknown := set(self.attention_sides) - set(sides):
      raise UserError(
        f"attention_sides: no map has a side of {', '.join(map(str, sorted(unknown)))}; choose of "
        f"{', '.join(map(str, sides))}, or () for the lowest alone"
      )
    if self.width % 4:
      raise UserError(f"width: {self.width} is no multiple of 4, as cosines, sines and norms need it")
    return sides


class ADM(EDMUNet):
  """The network of "Diffusion Models Beat GANs on Image Synthesis" (arXiv 2105.05233), as in EDM for ImageNet-64.

  Features scale and shift what norms give. `silu(dense(silu(dense(waves))) + row of the condition)` are the features;
  no condition adds nothing. By default it has the published 295.9 million parameters for 1,000 conditions.

  Attributes:
    width, multiples, depth, attention_sides, features, remat, dtype: see `EDMUNet`.
    head_width: channels of a head of attention.
  """

  width: int = 192
  multiples: tuple[int, ...] = (1, 2, 3, 4)
  depth: int = 3
  attention_sides: tuple[int, ...] = (32, 16, 8)
  features: int = 768
  head_width: int = 64

  def _stem(self) -> int:
    return self.width * self.multiples[0]

  def _style(self) -> Style:
    return Style()

  def _attends(self, number: int) -> bool:
    return True

  def _heads(self, channels: int) -> int:
    if channels % self.head_width:
      raise UserError(f"head_width: {self.head_width} does not divide {channels} channels; choose a divisor")
    return channels // self.head_width

  def _about(self, noisy: Noisy) -> jax.Array:
    waves = jnp.concatenate(octave_features(noisy.t, self.width), axis=1).astype(noisy.x.dtype)
    x = Dense(self.features, name="noise0")(waves)
    x = Dense(self.features, name="noise1")(jax.nn.silu(x))
    if self.num_classes > 1:
      rows = jax.nn.one_hot(noisy.cond, self.num_classes, dtype=x.dtype)  # zeros for no condition
      x = x + Dense(self.features, use_bias=False, name=f"condition{ROWS}")(rows)
    return jax.nn.silu(x)

  def _last(self, x: jax.Array, side: int, channels: int) -> jax.Array:
    return Conv(channels, 3, 1, name=f"out_conv{ZERO}")(jax.nn.silu(ScaledGroupNorm(name="out_norm")(x)))


class DDPMPlusPlus(EDMUNet):
  """DDPM++ (arXiv 2011.13456), as in EDM for CIFAR-10; `multiples=(1, 2, 2, 2)` for FFHQ-64 and AFHQv2-64.

  Features shift what enters a norm, attention has one head, and what a block gives is divided by `sqrt(2)`. Labels of
  augmentation, with which EDM trains, are none here.

  Attributes:
    width, multiples, depth, attention_sides, features, remat, dtype: see `EDMUNet`.
  """

  def _stem(self) -> int:
    return self.width

  def _style(self) -> Style:
    return Style(scaled=False, gain=math.sqrt(0.5), epsilon=1e-6, projected=True)

  def _attends(self, number: int) -> bool:
    return number == self.depth

  def _heads(self, channels: int) -> int:
    return 1

  def _about(self, noisy: Noisy) -> jax.Array:
    cosines, sines = octave_features(noisy.t, self.width, endpoint=True)
    x = jnp.concatenate([sines, cosines], axis=1).astype(noisy.x.dtype)
    if self.num_classes > 1:
      rows = jax.nn.one_hot(noisy.cond, self.num_classes, dtype=x.dtype) * math.sqrt(self.num_classes)
      x = x + Dense(self.width, name="condition")(rows)
    x = jax.nn.silu(Dense(self.features, name="noise0")(x))
    return jax.nn.silu(Dense(self.features, name="noise1")(x))

  def _last(self, x: jax.Array, side: int, channels: int) -> jax.Array:
    x = jax.nn.silu(ScaledGroupNorm(1e-6, name=f"dec{side}_aux_norm")(x))
    return Conv(channels, 3, 1, name=f"dec{side}_aux_conv{ZERO}")(x)
