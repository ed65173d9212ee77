"""VGG11 for small images."""

import flax.linen as nn
import jax

from jdistill.models.layers import Conv, Dense, Norm, Recorder, flatten_maps, pool, stem_padding
from jdistill.ops import relu

_MULTIPLES = (1, 2, 4, 4, 8, 8, 8, 8)  # of the width, per convolution
_POOLED = (True, True, False, True, False, True, False, True)


class VGG11(nn.Module):
  """Eight 3x3 convolutions with norm and ReLU, five 2x2 max poolings among them, then one dense layer.

  28x28x1 images are padded to 32x32 in the first convolution. Maps smaller than 2x2 are not pooled, so images below
  32x32 work too. Taps are `block0` to `block7`.

  Attributes:
    num_classes: length of the logits.
    width: filters of the first convolution, 64 in the paper; the others have 2, 4 and 8 times as many.
    norm: `"instance"`, `"batch"`, `"group"`, `"layer"` or `"none"`.
    groups: channel groups of `norm="group"`.

  References:
    Simonyan & Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015,
    arXiv:1409.1556, table 1 column A; with norms and a single dense layer.
  """

  num_classes: int
  width: int = 64
  norm: str = "instance"
  groups: int = 4

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, record: Recorder) -> tuple[jax.Array, jax.Array]:
    for i, (multiple, pooled) in enumerate(zip(_MULTIPLES, _POOLED, strict=True)):
      padding = stem_padding(x, 1, 3) if i == 0 else 1
      conv = Conv(multiple * self.width, padding=padding, bias_cancels=self.norm == "instance", name=f"conv{i}")
      x = conv(x)
      x = Norm(self.norm, self.groups, name=f"norm{i}")(x, train=train, record=record)
      x = record.tap(f"block{i}", relu(x))
      if pooled:
        x = pool(x, "max")
    embedding = record.site("embedding", flatten_maps(x))
    return Dense(self.num_classes, name="head")(embedding), embedding
