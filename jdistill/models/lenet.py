"""LeNet with ReLU and max pooling, as the data set distillation papers use it."""

import flax.linen as nn
import jax

from jdistill.models.layers import Conv, Dense, Recorder, flatten_maps, pool, stem_padding
from jdistill.ops import relu


class LeNet(nn.Module):
  """Two 5x5 convolutions (6 and 16 filters) with max pooling, dense layers of 120 and 84 units, and the head.

  Convolutions are unpadded, except that the first pads 28x28x1 images by 2, and that any map smaller than 5x5 is padded
  by 2, so that images down to 8x8 work. Taps `block0`, `block1` are maps, `block2`, `block3` are `[n, units]`.

  Attributes:
    num_classes: length of the logits.
  """

  num_classes: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, record: Recorder) -> tuple[jax.Array, jax.Array]:
    for i, filters in enumerate((6, 16)):
      padding = 2 if min(x.shape[1:3]) < 5 else stem_padding(x, 0, 2)
      x = Conv(filters, 5, padding, name=f"conv{i}")(x)
      x = pool(record.tap(f"block{i}", relu(x)), "max")
    x = flatten_maps(x)
    for i, units in enumerate((120, 84)):
      x = Dense(units, name=f"dense{i}")(x)
      x = record.tap(f"block{i + 2}", relu(x))  # [n, units]
    embedding = record.site("embedding", x)
    return Dense(self.num_classes, name="head")(embedding), embedding
