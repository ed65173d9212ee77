"""VGG networks of knowledge distillation: five stages, a global mean, one dense layer."""

import flax.linen as nn
import jax

from jdistill.models.layers import Conv, Dense, Norm, Recorder, pool
from jdistill.ops import relu

_MULTIPLES = (1, 2, 4, 8, 8)  # of the width, per stage


class StageVGG(nn.Module):
  """Five stages of 3x3 convolutions with norm and ReLU, 2x2 max pooling between them, a global mean, a dense layer.

  Taps: `block0` to `block4` are the stages, after the last ReLU and before pooling. The embedding is the global mean,
  `[n, 8 * width]`.

  Attributes:
    num_classes: length of the logits.
    convolutions: per stage.
    width: filters of the first stage, 64 in the paper.
    norm: `"batch"` in RepDistiller; `"instance"`, `"group"`, `"layer"` or `"none"`.
    groups: channel groups of `norm="group"`.

  References:
    Simonyan & Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015,
    arXiv:1409.1556; in the form of RepDistiller's CIFAR-100 tables (arXiv:1910.10699).
  """

  num_classes: int
  convolutions: tuple[int, ...] = (1, 1, 1, 1, 1)
  width: int = 64
  norm: str = "batch"
  groups: int = 4

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, record: Recorder) -> tuple[jax.Array, jax.Array]:
    for stage, (multiple, count) in enumerate(zip(_MULTIPLES, self.convolutions, strict=True)):
      if stage:
        x = pool(x, "max")
      for i in range(count):
        name = f"{stage}_{i}"
        x = Conv(multiple * self.width, bias_cancels=self.norm == "instance", name=f"conv{name}")(x)
        x = relu(Norm(self.norm, self.groups, name=f"norm{name}")(x, train=train, record=record))
      x = record.tap(f"block{stage}", x)
    embedding = record.global_mean(x)
    return Dense(self.num_classes, name="head")(embedding), embedding
