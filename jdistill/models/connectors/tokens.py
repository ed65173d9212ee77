"""Connectors between the tokens of two networks."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdistill.base import Connector, Outputs, UserError
from jdistill.models.connectors.base import connector
from jdistill.models.connectors.exits import token_grid
from jdistill.models.layers import Recorder
from jdistill.models.transformer_layers import dense

Tokens = Callable[[Outputs, tuple[Outputs, ...]], tuple[jax.Array, jax.Array]]


class _Projector(nn.Module):
  width: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, record: Recorder) -> jax.Array:
    return x if x.shape[-1] == self.width else dense(x, self.width, "dense")


def token_projector(tokens: Tokens) -> Connector:
  """The student's tokens `[B, P, d_s]` in the teacher's width `[B, P, d_t]`: one affine map for all of them.

  Where the widths are equal it is the tokens themselves, without parameters.

  Args:
    tokens: `(student, teachers) -> (the student's tokens [B, P, d_s], the teacher's [B, P, d_t])`.

  References:
    The projector of TRG's global term (arXiv 2306.12442).
  """

  def make(student: Outputs, teachers: tuple[Outputs, ...]) -> nn.Module:
    return _Projector(tokens(student, teachers)[1].shape[-1])

  return connector(make, lambda student, teachers: tokens(student, teachers)[0])


def square_map(x: jax.Array) -> jax.Array:
  """Tokens `[B, P, d]` as a map `[B, side, side, d]`, without a class token; maps as they are; vectors as one place.

  Raises:
    UserError: neither `P` nor `P - 1` is a square number.
  """
  if x.ndim == 4:
    return x
  if x.ndim == 2:
    return x[:, None, None]
  if x.ndim != 3:
    raise UserError(f"tap: an array of shape {x.shape} is neither a map nor tokens nor a vector; choose another tap")
  side, extra = token_grid(x.shape[1])
  return jnp.reshape(x[:, extra:], (x.shape[0], side, side, x.shape[-1]))
