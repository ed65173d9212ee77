"""Residual networks for images of 224 pixels, as torchvision and timm have them and their weights."""

import functools

import flax.linen as nn
import jax

from jdistill.models.layers import Dense, Recorder, conv_norm
from jdistill.ops import max_pool3, relu

_EXPANSION = 4  # of a bottleneck


class ImageNetResNet(nn.Module):
  """A strided 7x7 stem, a strided 3x3 maximum, four stages of residual blocks, a global mean and a dense layer.

  A basic block is two 3x3 convolutions; a bottleneck is a 1x1, a 3x3 and a 1x1 one to four times the filters. The first
  block of stages after the first halves the map: in its first convolution, in a bottleneck in the 3x3 one. A shortcut
  that changes shape is a 1x1 convolution with that stride. Batch norm follows every convolution. Taps: `block0` is what
  leaves the maximum, `block1` to `block4` are the stages after their last ReLU. The embedding is the global mean.

  Attributes:
    num_classes: length of the logits.
    blocks: residual blocks per stage.
    bottleneck: whether they are bottlenecks.
    width: filters of the stem; 64 in the paper.

  References:
    He et al., Deep Residual Learning for Image Recognition, CVPR 2016, arXiv:1512.03385, table 1; with the stride of a
    bottleneck in its 3x3 convolution, as the published weights of torchvision want it.
  """

  num_classes: int
  blocks: tuple[int, ...] = (2, 2, 2, 2)
  bottleneck: bool = False
  width: int = 64

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, record: Recorder) -> tuple[jax.Array, jax.Array]:
    layer = functools.partial(conv_norm, train=train, record=record)
    x = record.tap("block0", max_pool3(relu(layer(x, "stem_", "", self.width, 7, stride=2))))
    for stage, count in enumerate(self.blocks):
      filters = self.width * 2**stage
      for block in range(count):
        prefix, stride = f"stage{stage}_block{block}_", 2 if stage > 0 and block == 0 else 1
        if self.bottleneck:
          y = relu(layer(x, prefix, 0, filters, 1))
          y = relu(layer(y, prefix, 1, filters, stride=stride))
          y = layer(y, prefix, 2, _EXPANSION * filters, 1)
        else:
          y = relu(layer(x, prefix, 0, filters, stride=stride))
          y = layer(y, prefix, 1, filters)
        if x.shape != y.shape:
          x = layer(x, prefix, "_shortcut", y.shape[-1], 1, stride=stride)
        x = relu(x + y)
      x = record.tap(f"block{stage + 1}", x)
    embedding = record.global_mean(x)
    return Dense(self.num_classes, name="head")(embedding), embedding
