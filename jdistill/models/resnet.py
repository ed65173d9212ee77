"""Residual networks of basic blocks for small images: of four stages, and of three for knowledge distillation."""

import flax.linen as nn
import jax

from jdistill.models.layers import Conv, Dense, Norm, Recorder
from jdistill.ops import relu


class ResNet(nn.Module):
  """A 3x3 stem, stages of basic residual blocks, a global mean and a dense layer.

  Stage `s` has `2^s * stage_multiple * width` filters; stages after the first halve the map in their first block. A
  shortcut that changes shape is a strided 1x1 convolution with a norm (option B of the paper), as RepDistiller and
  mdistiller have it. Convolutions have no bias unless `norm="none"`. Taps: `block0` is the stem, `block1` and so on are
  the stages, each after its last ReLU. The embedding is the global mean. All layers lie side by side in the parameters:
  `stage1_block0_conv1`, ...

  Attributes:
    num_classes: length of the logits.
    blocks: residual blocks per stage; (2, 2, 2, 2) is ResNet18, (1, 1, 1, 1) ResNet10.
    width: 64 in the paper.
    norm: `"instance"`, `"batch"`, `"group"`, `"layer"` or `"none"`.
    groups: channel groups of `norm="group"`.
    stem_multiple: filters of the stem per `width`; 1, and 2 in the networks called x4.
    stage_multiple: filters of the first stage per `width`; 1, and 4 in the networks called x4.

  References:
    He et al., Deep Residual Learning for Image Recognition, CVPR 2016, arXiv:1512.03385; with the stem that small
    images need.
    Tian, Krishnan & Isola, Contrastive Representation Distillation, ICLR 2020, arXiv:1910.10699, for the x4 networks.
  """

  num_classes: int
  blocks: tuple[int, ...] = (2, 2, 2, 2)
  width: int = 64
  norm: str = "instance"
  groups: int = 4
  stem_multiple: int = 1
  stage_multiple: int = 1

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, record: Recorder) -> tuple[jax.Array, jax.Array]:
    def conv_norm(x: jax.Array, prefix: str, index: str, filters: int, size: int = 3, stride: int = 1) -> jax.Array:
      conv = Conv(filters, size, size // 2, stride, self.norm == "none", name=f"{prefix}conv{index}")
      return Norm(self.norm, self.groups, name=f"{prefix}norm{index}")(conv(x), train=train, record=record)

    x = record.tap("block0", relu(conv_norm(x, "stem_", "", self.stem_multiple * self.width)))
    for stage, count in enumerate(self.blocks):
      filters = self.stage_multiple * self.width * 2**stage
      for block in range(count):
        prefix = f"stage{stage}_block{block}_"
        stride = 2 if stage > 0 and block == 0 else 1
        y = relu(conv_norm(x, prefix, "0", filters, stride=stride))
        y = conv_norm(y, prefix, "1", filters)
        if x.shape != y.shape:
          x = conv_norm(x, prefix, "_shortcut", filters, size=1, stride=stride)
        x = relu(x + y)
      x = record.tap(f"block{stage + 1}", x)
    embedding = record.global_mean(x)
    return Dense(self.num_classes, name="head")(embedding), embedding


class CifarResNet(ResNet):
  """Three stages of `(depth - 2) / 6` blocks each and batch norm: section 4.2 of the paper, with a width of 16."""

  width: int = 16
