"""Residual networks of three stages for 32x32 images, the usual teachers and students of knowledge distillation."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdistill.models.layers import Dense, Recorder, conv_norm
from jdistill.ops import relu


class CifarResNet(nn.Module):
  """A 3x3 stem, three stages of `(depth - 2) / 6` basic blocks, a global mean and a dense layer; batch norm throughout.

  Stages have 1, 2 and 4 times `stage_multiple * width` filters; the second and third halve the map in their first
  block.
  A shortcut that changes shape is a strided 1x1 convolution with a norm (option B of the paper), as RepDistiller and
  mdistiller have it. Taps: `block0` is the stem and `block1` to `block3` are the stages, each after its last ReLU. The
  embedding is the global mean, `[n, 4 * stage_multiple * width]`.

  Attributes:
    num_classes: length of the logits.
    depth: weighted layers, 6k + 2.
    width: 16 in the paper.
    stem_multiple: filters of the stem per `width`; 1, and 2 in the networks called x4.
    stage_multiple: filters of the first stage per `width`; 1, and 4 in the networks called x4.

  References:
    He et al., Deep Residual Learning for Image Recognition, CVPR 2016, arXiv:1512.03385, section 4.2.
    Tian, Krishnan & Isola, Contrastive Representation Distillation, ICLR 2020, arXiv:1910.10699, for the x4 networks.
  """

  num_classes: int
  depth: int = 20
  width: int = 16
  stem_multiple: int = 1
  stage_multiple: int = 1

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, record: Recorder) -> tuple[jax.Array, jax.Array]:
    layer = functools.partial(conv_norm, train=train, record=record)
    x = record.tap("block0", relu(layer(x, "stem_", "", self.stem_multiple * self.width)))
    for stage in range(3):
      filters = self.stage_multiple * self.width * 2**stage
      for block in range((self.depth - 2) // 6):
        prefix = f"stage{stage}_block{block}_"
        stride = 2 if stage > 0 and block == 0 else 1
        y = relu(layer(x, prefix, 0, filters, stride=stride))
        y = layer(y, prefix, 1, filters)
        if stride != 1 or x.shape[-1] != filters:
          x = layer(x, prefix, "_shortcut", filters, 1, stride=stride)
        x = relu(x + y)
      x = record.tap(f"block{stage + 1}", x)
    embedding = record.site("embedding", jnp.mean(x, (1, 2)))
    return Dense(self.num_classes, name="head")(embedding), embedding
