"""A Linen module between student and teachers as a `Connector`."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from jdistill.base import Connector, Key, Outputs, Variables
from jdistill.models.initialise import INITS, draw_params, fresh_moments
from jdistill.models.layers import Recorder


def connector(
  make: Callable[[Outputs, tuple[Outputs, ...]], nn.Module],
  inputs: Callable[[Outputs, tuple[Outputs, ...]], Any],
  *,
  init: str = INITS[0],
) -> Connector:
  """Wraps a module whose `__call__(inputs, *, train, record)` is made of the layers of `jdistill.models.layers`.

  Args:
    make: `(student, teachers) -> module`, from the shapes of their outputs.
    inputs: `(student, teachers) -> what the module is called with`.
    init: how its parameters are drawn; see `jdistill.models.build`.

  Returns:
    The `Connector`; dropout is drawn from its `key`.
  """

  def init_fn(key: Key, student: Outputs, teachers: tuple[Outputs, ...]) -> Variables:
    module, given = make(student, teachers), inputs(student, teachers)
    shapes = jax.eval_shape(
      lambda given: module.init({"params": key, "dropout": key}, given, train=False, record=Recorder()), given
    )
    return Variables(draw_params(key, shapes.get("params", {}), init), fresh_moments(shapes.get("batch_stats", {})))

  def apply(variables: Variables, student: Outputs, teachers: tuple[Outputs, ...], *, train: bool, key: Key):
    module = make(student, teachers)
    given = {"params": variables.params} | ({"batch_stats": variables.stats} if variables.stats else {})
    value, updated = module.apply(
      given,
      inputs(student, teachers),
      train=train,
      record=Recorder(),
      rngs={"dropout": key},
      mutable=["batch_stats"] if train and variables.stats else [],
    )
    return value, updated.get("batch_stats", variables.stats)

  return Connector(init_fn, apply)
