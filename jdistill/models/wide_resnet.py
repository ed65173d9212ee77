"""Wide residual networks for 32x32 images, with the norm and the ReLU before each convolution."""

import functools

import flax.linen as nn
import jax

from jdistill.base import UserError
from jdistill.models.layers import Conv, Dense, Norm, Recorder
from jdistill.ops import relu


class WideResNet(nn.Module):
  """A 3x3 stem, three stages of `(depth - 4) / 6` pre-activation blocks, norm, ReLU, global mean and a dense layer.

  Stages have 1, 2 and 4 times `widen_factor * width` filters; the second and third halve the map in their first block.
  A block whose shape changes takes its 1x1 shortcut from the input *after* norm and ReLU, others add the input as it
  is. Taps: `block0` is the stem and `block1` to `block3` are the stages. They are sums that no ReLU has clipped yet:
  the next stage's norm and ReLU follow, and it is there that RepDistiller and mdistiller read them. The embedding is
  the global mean after the last ReLU, `[n, 4 * widen_factor * width]`.

  Attributes:
    num_classes: length of the logits.
    depth: weighted layers, 6k + 4.
    widen_factor: filters of the first stage per `width`.
    width: filters of the stem, 16 in the paper.

  References:
    Zagoruyko & Komodakis, Wide Residual Networks, BMVC 2016, arXiv:1605.07146; without dropout.
  """

  num_classes: int
  depth: int = 16
  widen_factor: int = 1
  width: int = 16

  def __post_init__(self):
    if self.depth < 10 or (self.depth - 4) % 6:
      raise UserError(
        f"depth: {self.depth} is not a depth of wide residual networks; choose 10, 16, 22, 28, 34, 40, ..."
      )
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, record: Recorder) -> tuple[jax.Array, jax.Array]:
    def norm_relu(x: jax.Array, name: str) -> jax.Array:
      return relu(Norm("batch", name=name)(x, train=train, record=record))

    conv = functools.partial(Conv, use_bias=False)
    x = record.tap("block0", conv(self.width, name="stem_conv")(x))
    for stage in range(3):
      filters = self.widen_factor * self.width * 2**stage
      for block in range((self.depth - 4) // 6):
        prefix = f"stage{stage}_block{block}_"
        stride = 2 if stage > 0 and block == 0 else 1
        y = norm_relu(x, f"{prefix}norm0")
        if x.shape[-1] != filters:
          x = conv(filters, 1, 0, stride, name=f"{prefix}conv_shortcut")(y)
        y = conv(filters, stride=stride, name=f"{prefix}conv0")(y)
        x = x + conv(filters, name=f"{prefix}conv1")(norm_relu(y, f"{prefix}norm1"))
      x = record.tap(f"block{stage + 1}", x)
    embedding = record.global_mean(norm_relu(x, "last_norm"))
    return Dense(self.num_classes, name="head")(embedding), embedding
