"""ConvNet-D, the network on which nearly all data set distillation is measured."""

import flax.linen as nn
import jax

from jdistill.models.layers import ACTIVATIONS, Conv, Dense, Norm, Recorder, flatten_maps, pool, stem_padding

EMBEDDINGS = ("flatten", "mean")


class ConvNet(nn.Module):
  """`depth` blocks of 3x3 convolution, norm, activation and 2x2 pooling; then one dense layer on the flattened map.

  The field uses depth 3 for 32x32 images (320,010 parameters with 10 classes), 4 for 64x64 and 5 for 128x128. Maps keep
  their size in a convolution; 28x28x1 images are padded to 32x32 in the first one. Blocks whose map is smaller than 2x2
  do not pool. The embedding is the last map flattened as (row, column, channel). With `embedding="mean"` it is the mean
  over the places of the last block's map, which is not pooled before; class activation maps need such a network.

  Attributes:
    num_classes: length of the logits.
    width: filters per convolution.
    depth: number of blocks; taps are `block0` to `block{depth - 1}`.
    norm: `"instance"`, `"batch"`, `"group"`, `"layer"` or `"none"`.
    act: `"relu"`, `"sigmoid"`, `"leaky_relu"` (slope 0.01) or `"softplus"` (`softplus(60 x) / 60`, a smooth ReLU).
    pooling: `"avg"`, `"max"` or `"none"`.
    groups: channel groups of `norm="group"`.
    embedding: `"flatten"` or `"mean"`.
  """

  num_classes: int
  width: int = 128
  depth: int = 3
  norm: str = "instance"
  act: str = "relu"
  pooling: str = "avg"
  groups: int = 4
  embedding: str = "flatten"

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, record: Recorder) -> tuple[jax.Array, jax.Array]:
    for i in range(self.depth):
      padding = stem_padding(x, 1, 3) if i == 0 else 1
      x = Conv(self.width, padding=padding, bias_cancels=self.norm == "instance", name=f"conv{i}")(x)
      x = Norm(self.norm, self.groups, name=f"norm{i}")(x, train=train, record=record)
      x = record.tap(f"block{i}", ACTIVATIONS[self.act](x))  # [n, h, w, width]
      if i < self.depth - 1 or self.embedding == "flatten":
        x = pool(x, self.pooling)
    embedding = record.global_mean(x) if self.embedding == "mean" else record.site("embedding", flatten_maps(x))
    return Dense(self.num_classes, name="head")(embedding), embedding
