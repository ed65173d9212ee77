"""A small network that tells a student's logits from its teachers'."""

from collections.abc import Callable

import flax.linen as nn
import jax

from jdistill.base import Connector
from jdistill.models.connectors.base import connector
from jdistill.models.layers import Dense, Recorder
from jdistill.ops import relu


class _Discriminator(nn.Module):
  widths: tuple[int, ...]
  last_relu: bool

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, record: Recorder) -> jax.Array:
    for number, width in enumerate(self.widths):
      x = Dense(width, name=f"dense{number}")(x)
      if self.last_relu or number < len(self.widths) - 1:
        x = relu(x)
    return x


def discriminator(widths: Callable[[int], tuple[int, ...]], *, last_relu: bool = True) -> Connector:
  """Dense layers with ReLU on logits: `[B, C] -> [B, widths[-1]]` scores before the sigmoid.

  It is called with the student's logits. To ask it about others, hand them over as the student's:
  `apply(variables, Outputs(logits, embedding), (), ...)`.

  Args:
    widths: `(C) -> widths of the layers`, such as `jdistill.methods.knowledge.meal_v2.discriminator_widths`.
    last_relu: a ReLU after the last layer, too, as in MEAL V2's release. Scores are then never negative; if all of them
      are zero, nothing in the network receives a gradient any more.

  References:
    Shen and Savvides, "MEAL V2" (arXiv 2009.08453), the network of its repository.
  """

  def make(student, teachers) -> nn.Module:
    del teachers
    return _Discriminator(widths(student.logits.shape[-1]), last_relu)

  return connector(make, lambda student, teachers: student.logits)
