"""EfficientNet-Lite0: an EfficientNet without squeeze-and-excitation, whose activation is ReLU6."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdistill.models.layers import Conv, Dense, Norm, Recorder

# per stage: expansion, filters, blocks, stride of the first, side of the depthwise kernel
_STAGES = (
  (1, 16, 1, 1, 3),
  (6, 24, 2, 2, 3),
  (6, 40, 2, 2, 5),
  (6, 80, 3, 2, 3),
  (6, 112, 3, 1, 5),
  (6, 192, 4, 2, 5),
  (6, 320, 1, 1, 3),
)
_EPSILON = 1e-3  # of its batch norm


class EfficientNetLite(nn.Module):
  """A strided 3x3 stem, sixteen inverted residual blocks, a 1x1 convolution, a global mean and a dense layer.

  An inverted residual block is a 1x1 convolution to six times the channels (left out in the first block), a depthwise
  one, each with batch norm and `min(max(x, 0), 6)`, and a 1x1 one back with batch norm alone; blocks that keep the
  shape add their input. Convolutions keep `ceil(side / stride)` outputs with the odd zeros at the bottom and on the
  right, as in TensorFlow. Stem and last convolution are those of the smallest network of the family in all its sizes.
  Taps: `block0` is the stem after its activation, `block1` to `block7` are the stages. The embedding is the mean of the
  last convolution after its activation. No dropout.

  Attributes:
    num_classes: length of the logits.
    width: filters of the stem; 32 is Lite0, and all others in proportion.
    last: filters of the last convolution.

  References:
    Tan & Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, ICML 2019, arXiv:1905.11946,
    table 1; the changes of "Lite" as in Google's release of TensorFlow's EfficientNet-Lite.
  """

  num_classes: int
  width: int = 32
  last: int = 1280

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, record: Recorder) -> tuple[jax.Array, jax.Array]:
    def layer(x, prefix: str, index: str, features: int, size: int = 1, stride: int = 1, groups: int = 1) -> jax.Array:
      name = f"{prefix}conv{index}"
      x = Conv(features, size, "SAME", stride, use_bias=False, groups=groups, name=name)(x)
      return Norm("batch", epsilon=_EPSILON, name=f"{prefix}norm{index}")(x, train=train, record=record)

    x = record.tap("block0", relu6(layer(x, "stem_", "", self.width, 3, 2)))
    for stage, (expansion, multiple, count, first_stride, size) in enumerate(_STAGES):
      filters = max(multiple * self.width // 32, 1)
      for block in range(count):
        prefix, stride = f"stage{stage}_block{block}_", first_stride if block == 0 else 1
        inner = x.shape[-1] * expansion
        y = relu6(layer(x, prefix, "0", inner)) if expansion > 1 else x
        y = relu6(layer(y, prefix, "1", inner, size, stride, groups=inner))
        y = layer(y, prefix, "2", filters)
        x = x + y if x.shape == y.shape else y
      x = record.tap(f"block{stage + 1}", x)
    x = relu6(layer(x, "last_", "", self.last))
    embedding = record.global_mean(x)
    return Dense(self.num_classes, name="head")(embedding), embedding


def relu6(x: jax.Array) -> jax.Array:
  """`min(max(x, 0), 6)`."""
  return jnp.clip(x, 0, 6)
