"""Multi-layer perceptron on flattened images."""

import flax.linen as nn
import jax

from jdistill.models.layers import ACTIVATIONS, Dense, Recorder, flatten_maps


class MLP(nn.Module):
  """Dense layers of `widths` units with an activation each, then the head; taps `block0`, ... are `[n, width]`.

  The field's network has two hidden layers of 128 (411,146 parameters on CIFAR-10).

  Attributes:
    num_classes: length of the logits.
    widths: units per hidden layer.
    act: `"relu"`, `"sigmoid"`, `"leaky_relu"` (slope 0.01) or `"softplus"` (`softplus(60 x) / 60`, a smooth ReLU).
  """

  num_classes: int
  widths: tuple[int, ...] = (128, 128)
  act: str = "relu"

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, record: Recorder) -> tuple[jax.Array, jax.Array]:
    x = flatten_maps(x)
    for i, width in enumerate(self.widths):
      x = ACTIVATIONS[self.act](Dense(width, name=f"dense{i}")(x))
      x = record.tap(f"block{i}", x)  # [n, width]
    embedding = record.site("embedding", x)
    return Dense(self.num_classes, name="head")(embedding), embedding
