"""A new condition of a denoiser: the row of its table of conditions that several networks share."""

import jax
import jax.numpy as jnp

from jdistill.base import Network, PyTree, UserError, Variables
from jdistill.diffusion import Denoiser
from jdistill.methods.diffusion.parts import check_same_schedule, denoiser_of

_TABLE = "condition"


def token_of(known: Denoiser, token: int | None) -> int:
  """The number of the new condition, by default the last one.

  Raises:
    UserError: a denoiser without conditions, or without this one.
  """
  if known.conditions == 1:
    raise UserError("teacher: has no conditions, and a concept is a new one; use a task with conditions, 'concept'")
  if token is None:
    return known.conditions - 1
  if token >= known.conditions:
    raise UserError(f"method.token={token}: the denoiser has {known.conditions} conditions, from 0; lower it")
  return token


def token_row(params: PyTree, token: int, start: str) -> jax.Array:
  """The first value `[size]` of the row: `"mean"` of those of the other conditions, or its `"own"`."""
  table = params[_TABLE]["kernel"]
  if start == "own":
    return table[token]
  others = jnp.arange(table.shape[0] - 1) != token  # the last row stands for no condition
  return jnp.mean(table[:-1], axis=0, where=others[:, None])


def with_token(params: PyTree, token: int, row: jax.Array) -> PyTree:
  """Parameters with this row in their table."""
  table = params[_TABLE]
  kernel = table["kernel"].at[token].set(row.astype(table["kernel"].dtype))
  return {**params, _TABLE: {**table, "kernel": kernel}}


def check_interface(network: Network, teacher: tuple[Network, Variables]) -> None:
  """Refuses a student that takes its conditions in another way than its teacher.

  Raises:
    UserError: naming what differs.
  """
  check_same_schedule(denoiser_of(network), denoiser_of(teacher[0]))
  own = jax.eval_shape(network.init, jax.random.key(0)).params
  sizes = [params[_TABLE]["kernel"].shape[1] if _TABLE in params else 0 for params in (own, teacher[1].params)]
  if sizes[0] != sizes[1]:
    raise UserError(
      f"student.features={sizes[0]}: its conditions are vectors of so many numbers, and its teacher's of {sizes[1]}; "
      "the two share the row of the concept, so give both the same"
    )
