"""A block that turns the student's last map into one that the teacher's classifier reads."""

from collections.abc import Callable

import flax.linen as nn
import jax

from jdistill.base import Connector, Outputs
from jdistill.models.connectors.base import connector
from jdistill.models.layers import Recorder, conv_norm
from jdistill.ops import relu

_LAST = "conv2"  # whose kernel tells the teacher's width


class FeatureTransfer(nn.Module):
  """1x1 convolution to `D_t / factor`, 3x3, 1x1 to `D_t`, each without bias and followed by batch norm and ReLU.

  Attributes:
    width: `D_t`, channels of the teacher's map.
    factor: how much narrower the two inner layers are.
  """

  width: int
  factor: int = 2

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, record: Recorder) -> jax.Array:
    inner = max(1, self.width // self.factor)
    for number, (width, size) in enumerate(((inner, 1), (inner, 3), (self.width, 1))):
      x = relu(conv_norm(x, "", number, width, size, train=train, record=record))
    return x


def last_map(outputs: Outputs, whose: str = "network") -> jax.Array:
  """The last feature map `[B, H, W, channels]` among the taps, by their numbers.

  Args:
    outputs: of a network.
    whose: how a message calls it.

  Raises:
    ValueError: the network shows no map.
  """
  names = [name for name, value in outputs.taps.items() if value.ndim == 4]
  if not names:
    raise ValueError(f"{whose}: shows no feature map; choose a convolutional network, such as resnet8")
  return outputs.taps[max(names, key=lambda name: (int("".join(filter(str.isdigit, name)) or -1), name))]


def feature_transfer(*, factor: int = 2, rows: Callable[[jax.Array], jax.Array] | None = None) -> Connector:
  """The student's last map in the teacher's width: `[B, H_s, W_s, D_s] -> [B, H_s, W_s, D_t]`.

  Its `apply` needs no teacher, so that it can be a part of the finished student. The released code pools a student's
  map that is larger than the teacher's before the block; this one keeps its size, and the loss pools.

  Args:
    factor: bottleneck; the inner layers have `D_t // factor` channels.
    rows: what of the student's map is used, for steps whose views have more rows than the loss needs.

  References:
    The projector of SimKD (arXiv 2203.14001), which KD^3 (arXiv 2307.11469) takes over.
  """

  def sized(width: int) -> Connector:
    def inputs(student: Outputs, teachers: tuple[Outputs, ...]) -> jax.Array:
      found = last_map(student, "student")
      return found if rows is None else rows(found)

    return connector(lambda student, teachers: FeatureTransfer(width, factor), inputs)

  def init(key, student: Outputs, teachers: tuple[Outputs, ...]):
    return sized(last_map(teachers[0], "teacher").shape[-1]).init(key, student, teachers)

  def apply(variables, student: Outputs, teachers: tuple[Outputs, ...], *, train: bool, key):
    width = variables.params[_LAST]["kernel"].shape[-1]
    return sized(width).apply(variables, student, teachers, train=train, key=key)

  return Connector(init, apply)
