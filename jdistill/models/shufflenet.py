"""ShuffleNet V1 and V2 for 32x32 images: cheap 1x1 convolutions whose channels are mixed by a shuffle."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdistill.base import UserError
from jdistill.models.layers import Dense, Recorder, conv_norm
from jdistill.ops import relu

_STEM = 24


def shuffle_channels(x: jax.Array, groups: int) -> jax.Array:
  """Deals the channels of `groups` neighbouring blocks out in turn: `[a0 a1 b0 b1] -> [a0 b0 a1 b1]` for two.

  Args:
    x: `[n, h, w, c]`.
    groups: number of blocks, a divisor of `c`.

  Returns:
    `[n, h, w, c]`.
  """
  return jnp.swapaxes(x.reshape(*x.shape[:-1], groups, -1), -1, -2).reshape(x.shape)


def halve_by_means(x: jax.Array) -> jax.Array:
  """The mean over 3x3 pixels around every second one, where pixels outside count as zeros.

  Args:
    x: `[n, h, w, c]`.

  Returns:
    `[n, ceil(h / 2), ceil(w / 2), c]`.
  """
  height, width = x.shape[1:3]
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  return sum(padded[:, i : i + height : 2, j : j + width : 2] for i in range(3) for j in range(3)) / 9.0


class ShuffleNetV1(nn.Module):
  """A 1x1 stem of 24 filters, three stages of 4, 8 and 4 bottlenecks, a global mean and a dense layer.

  A bottleneck is a grouped 1x1 convolution to a quarter of its own outputs, a shuffle, a depthwise 3x3 one and a
  grouped 1x1 one, and a ReLU after the shortcut. The first of a stage has stride 2 and concatenates the 3x3 mean of its
  input, zeros outside counted; the others add it. Two things follow RepDistiller: the first convolution on the stem is
  not grouped, and the depthwise one has a ReLU. Taps: `block0` is the stem, `block1` to `block3` are the stages, after
  their ReLUs. The embedding is the global mean, `[n, widths[2]]`.

  Attributes:
    num_classes: length of the logits.
    widths: filters per stage.
    groups: of the 1x1 convolutions.

  References:
    Zhang et al., ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices, CVPR 2018,
    arXiv:1707.01083; with the stem that small images need.
  """

  num_classes: int
  widths: tuple[int, ...] = (240, 480, 960)
  groups: int = 3

  def __post_init__(self):
    entering = (_STEM, *self.widths[:-1])
    added = [width - before for width, before in zip(self.widths, entering, strict=True)]
    inner = [size // 4 for group in zip(added, self.widths, strict=True) for size in group]
    if len(self.widths) != 3 or min(added) < 4 or any(size % self.groups for size in (*added, *self.widths, *inner)):
      raise UserError(
        f"widths: {tuple(self.widths)} do not divide into {self.groups} groups in all bottlenecks; "
        "choose three that grow, such as (240, 480, 960)"
      )
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, record: Recorder) -> tuple[jax.Array, jax.Array]:
    layer = functools.partial(conv_norm, train=train, record=record)
    x = record.tap("block0", relu(layer(x, "stem_", "", _STEM, 1)))
    for stage, (width, count) in enumerate(zip(self.widths, (4, 8, 4), strict=True)):
      for block in range(count):
        prefix = f"stage{stage}_block{block}_"
        stride = 2 if block == 0 else 1
        filters = width - x.shape[-1] if block == 0 else width
        groups = 1 if stage == block == 0 else self.groups
        y = relu(layer(x, prefix, 0, filters // 4, 1, groups=groups))
        y = shuffle_channels(y, groups)
        y = relu(layer(y, prefix, 1, filters // 4, stride=stride, groups=filters // 4))
        y = layer(y, prefix, 2, filters, 1, groups=self.groups)
        if block == 0:
          x = relu(jnp.concatenate([y, halve_by_means(x)], axis=-1))
        else:
          x = relu(y + x)
      x = record.tap(f"block{stage + 1}", x)
    embedding = record.global_mean(x)
    return Dense(self.num_classes, name="head")(embedding), embedding


class ShuffleNetV2(nn.Module):
  """A 1x1 stem of 24 filters, three stages of 1 + 3, 1 + 7 and 1 + 3 units, a 1x1 convolution, mean and dense layer.

  The first unit of a stage has stride 2 and two branches over all channels; the others pass one half of the channels by
  and work on the second half. Branches are 1x1, depthwise 3x3 and 1x1 convolutions, with a ReLU after the 1x1 ones;
  concatenation and a shuffle of the two halves end each unit. Taps: `block0` is the stem, `block1` to `block3` are the
  stages, all after ReLU and shuffle. The embedding is the mean of the last convolution after its ReLU, `[n, last]`.

  Attributes:
    num_classes: length of the logits.
    widths: even numbers of filters per stage; (116, 232, 464) is the network called 1x.
    last: filters of the last convolution.

  References:
    Ma et al., ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design, ECCV 2018, arXiv:1807.11164,
    table 5; with the stem that small images need.
  """

  num_classes: int
  widths: tuple[int, ...] = (116, 232, 464)
  last: int = 1024

  def __post_init__(self):
    if len(self.widths) != 3 or any(width % 2 for width in self.widths):
      raise UserError(f"widths: {tuple(self.widths)} are not three even numbers, such as (116, 232, 464)")
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, record: Recorder) -> tuple[jax.Array, jax.Array]:
    layer = functools.partial(conv_norm, train=train, record=record)

    def branch(x: jax.Array, prefix: str, half: int, stride: int) -> jax.Array:
      x = relu(layer(x, prefix, 0, half, 1))
      x = layer(x, prefix, 1, half, stride=stride, groups=half)
      return relu(layer(x, prefix, 2, half, 1))

    x = record.tap("block0", relu(layer(x, "stem_", "", _STEM, 1)))
    for stage, (width, count) in enumerate(zip(self.widths, (4, 8, 4), strict=True)):
      half = width // 2
      for unit in range(count):
        prefix = f"stage{stage}_block{unit}_"
        if unit == 0:
          kept = layer(x, prefix, "_kept0", x.shape[-1], stride=2, groups=x.shape[-1])
          kept, worked = relu(layer(kept, prefix, "_kept1", half, 1)), branch(x, prefix, half, 2)
        else:
          kept, worked = x[..., :half], branch(x[..., half:], prefix, half, 1)
        x = shuffle_channels(jnp.concatenate([kept, worked], axis=-1), 2)
      x = record.tap(f"block{stage + 1}", x)
    x = relu(layer(x, "last_", "", self.last, 1))
    embedding = record.global_mean(x)
    return Dense(self.num_classes, name="head")(embedding), embedding
