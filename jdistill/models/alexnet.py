"""The small AlexNet of the data set distillation papers."""

import flax.linen as nn
import jax

from jdistill.models.layers import Conv, Dense, Recorder, flatten_maps, pool, stem_padding
from jdistill.ops import relu


class AlexNet(nn.Module):
  """Five convolutions with ReLU, the first, second and last followed by 2x2 max pooling; then one dense layer.

  With width w the filters are w, 3w/2, 2w, 3w/2, 3w/2, the kernels 5, 5, 3, 3, 3. 28x28x1 images are padded to 32x32 in
  the first convolution; maps smaller than 2x2 are not pooled. Taps are `block0` to `block4`.

  Attributes:
    num_classes: length of the logits.
    width: filters of the first convolution.
  """

  num_classes: int
  width: int = 128

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, record: Recorder) -> tuple[jax.Array, jax.Array]:
    middle = 3 * self.width // 2
    layers = (
      (self.width, 5, True),
      (middle, 5, True),
      (2 * self.width, 3, False),
      (middle, 3, False),
      (middle, 3, True),
    )
    for i, (filters, size, pooled) in enumerate(layers):
      padding = stem_padding(x, 2, 4) if i == 0 else size // 2
      x = relu(Conv(filters, size, padding, name=f"conv{i}")(x))
      x = record.tap(f"block{i}", x)
      if pooled:
        x = pool(x, "max")
    embedding = record.site("embedding", flatten_maps(x))
    return Dense(self.num_classes, name="head")(embedding), embedding
