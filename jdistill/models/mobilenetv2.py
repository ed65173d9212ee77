"""MobileNetV2 for 32x32 images, the narrow student of knowledge distillation."""

import functools

import flax.linen as nn
import jax

from jdistill.models.layers import Dense, Recorder, conv_norm
from jdistill.ops import relu

# Per group of inverted residual blocks: whether it expands, filters per 32 of the width, blocks, first stride, and
# whether a tap follows it.
_GROUPS = (
  (False, 16, 1, 1, False),
  (True, 24, 2, 1, True),
  (True, 32, 3, 2, True),
  (True, 64, 4, 2, False),
  (True, 96, 3, 1, True),
  (True, 160, 3, 2, False),
  (True, 320, 1, 1, True),
)


class MobileNetV2(nn.Module):
  """A strided 3x3 stem, seventeen inverted residual blocks, a 1x1 convolution, a global mean and a dense layer.

  An inverted residual block is a 1x1 convolution to `expansion` times the channels, a depthwise 3x3 one, each with norm
  and ReLU (not ReLU6), and a 1x1 one back with a norm only; blocks that keep the shape add their input. The stem and
  three groups have stride 2, so 32x32 images end as 2x2 maps. Taps: `block0` is the stem after its ReLU; `block1` to
  `block4` are the second, third, fifth and last group, linear as the blocks end. The embedding is the mean of the 1x1
  convolution after its ReLU, `[n, last]`.

  Attributes:
    num_classes: length of the logits.
    width: filters of the stem; 32 in the paper, 16 in the usual student ("width 0.5"), and all groups in proportion.
    expansion: channels inside a block per channel entering it.
    last: filters of the last convolution.

  References:
    Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018, arXiv:1801.04381, table 2; with
    the strides that RepDistiller and mdistiller use on CIFAR-100.
  """

  num_classes: int
  width: int = 16
  expansion: int = 6
  last: int = 1280

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, record: Recorder) -> tuple[jax.Array, jax.Array]:
    layer = functools.partial(conv_norm, train=train, record=record)
    x = record.tap("block0", relu(layer(x, "stem_", "", self.width, stride=2)))
    taps = 0
    for group, (expands, multiple, count, first_stride, tapped) in enumerate(_GROUPS):
      filters = max(multiple * self.width // 32, 1)
      for block in range(count):
        prefix = f"group{group}_block{block}_"
        stride = first_stride if block == 0 else 1
        inner = x.shape[-1] * (self.expansion if expands else 1)
        y = relu(layer(x, prefix, 0, inner, 1))
        y = relu(layer(y, prefix, 1, inner, stride=stride, groups=inner))
        y = layer(y, prefix, 2, filters, 1)
        x = x + y if stride == 1 and x.shape[-1] == filters else y
      if tapped:
        taps += 1
        x = record.tap(f"block{taps}", x)
    x = relu(layer(x, "last_", "", self.last, 1))
    embedding = record.global_mean(x)
    return Dense(self.num_classes, name="head")(embedding), embedding
