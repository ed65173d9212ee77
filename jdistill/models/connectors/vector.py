"""Connectors between vectors: embedding maps and heads."""

from collections.abc import Callable

import flax.linen as nn
import jax

from jdistill.base import Connector, Outputs
from jdistill.models.connectors.base import connector
from jdistill.models.layers import Dense, Norm, Recorder
from jdistill.ops import relu


class _EmbeddingMap(nn.Module):
  features: int
  dropout: float

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, record: Recorder) -> jax.Array:
    x = Norm("batch", name="norm")(x, train=train, record=record)
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return Dense(self.features, name="dense")(x)


def embedding_map(*, dropout: float = 0.5) -> Connector:
  """The student's embedding `[B, D_s]` in the teacher's width `[B, D_t]`: batch norm, dropout, dense.

  Where the widths are equal it is the embedding itself, without parameters.

  Args:
    dropout: rate.

  References:
    The map of ND (arXiv 2305.17007) in its released form.
  """

  def make(student: Outputs, teachers: tuple[Outputs, ...]) -> nn.Module:
    width = teachers[0].embedding.shape[-1]
    return _Identity() if student.embedding.shape[-1] == width else _EmbeddingMap(width, dropout)

  return connector(make, lambda student, teachers: student.embedding)


class _Identity(nn.Module):
  @nn.compact
  def __call__(self, x, *, train: bool, record: Recorder):
    return x


class _Head(nn.Module):
  widths: tuple[int, ...]

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, record: Recorder) -> jax.Array:
    for number, width in enumerate(self.widths):
      if number:
        x = relu(x)
      x = Dense(width, name=f"dense{number}")(x)
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
