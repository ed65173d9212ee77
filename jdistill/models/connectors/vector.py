"""Connectors between vectors: embedding maps, heads, and the discriminator of logits."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdistill.base import Connector, Outputs
from jdistill.models.connectors.base import connector
from jdistill.models.layers import Dense, Norm, Recorder
from jdistill.ops import relu


class _EmbeddingMap(nn.Module):
  width: int
  dropout: float

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, record: Recorder) -> jax.Array:
    if x.shape[-1] == self.width:
      return x
    x = Norm("batch", name="norm")(x, train=train, record=record)
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return Dense(self.width, name="dense")(x)


def embedding_map(*, dropout: float = 0.5) -> Connector:
  """The student's embedding `[B, D_s]` in the teacher's width `[B, D_t]`: batch norm, dropout, dense.

  Where the widths are equal it is the embedding itself, without parameters.

  Args:
    dropout: rate.

  References:
    The map of ND (arXiv 2305.17007) in its released form.
  """

  def make(student: Outputs, teachers: tuple[Outputs, ...]) -> nn.Module:
    return _EmbeddingMap(teachers[0].embedding.shape[-1], dropout)

  return connector(make, lambda student, teachers: student.embedding)


class _Head(nn.Module):
  widths: tuple[int, ...]
  last_relu: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, record: Recorder) -> jax.Array:
    for number, width in enumerate(self.widths):
      x = Dense(width, name=f"dense{number}")(x)
      if self.last_relu or number < len(self.widths) - 1:
        x = relu(x)
    return x


def mlp_head(
  widths: tuple[int, ...], inputs: Callable[[Outputs, tuple[Outputs, ...]], jax.Array] | None = None
) -> Connector:
  """Dense layers with ReLU between them, on the student's embedding `[B, D] -> [B, widths[-1]]`.

  Args:
    widths: of the layers; one entry is a linear head.
    inputs: `(student, teachers) -> [B, ...]`, where it is not the student's embedding.
  """
  return connector(lambda student, teachers: _Head(widths), inputs or (lambda student, teachers: student.embedding))


class _Projector(nn.Module):
  widths: tuple[int, ...]
  views: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, record: Recorder) -> jax.Array:
    last = len(self.widths) - 1
    for number, width in enumerate(self.widths):
      x = Dense(width, name=f"dense{number}")(x)
      if number < last:
        norm = Norm("batch", name=f"norm{number}")
        parts = jnp.split(x, self.views) if train else [x]
        x = relu(jnp.concatenate([norm(part, train=train, record=record) for part in parts]))
    return x


def projector(widths: tuple[int, ...], *, views: int = 1) -> Connector:
  """Dense layers with batch norm and ReLU between them, on the student's embedding `[views B, D]`.

  Args:
    widths: of the layers; the last has neither norm nor ReLU.
    views: equal parts of the rows, of which batch norm takes the moments one by one.

  References:
    The projector of Barlow Twins (arXiv 2103.03230), sec. 2.2; its last layers have no biases, which the loss there
    does not see.
  """
  return connector(lambda student, teachers: _Projector(widths, views), lambda student, teachers: student.embedding)


def embedding_heads(features: int) -> dict[str, Connector]:
  """Linear heads on both embeddings, `student_head` and `teacher_head`: `[B, D] -> [B, features]` each.

  The teacher's embedding comes without a gradient, and its head learns.
  """
  teacher_head = mlp_head((features,), lambda student, teachers: teachers[0].embedding)
  return {"student_head": mlp_head((features,)), "teacher_head": teacher_head}


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

  def make(student: Outputs, teachers: tuple[Outputs, ...]) -> nn.Module:
    return _Head(widths(student.logits.shape[-1]), last_relu)

  return connector(make, lambda student, teachers: student.logits)
