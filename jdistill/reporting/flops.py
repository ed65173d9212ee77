"""How much a traced function multiplies, counted without compiling it: every loop as often as it runs."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

from jdistill.reporting import units
from jdistill.reporting.environment import matmul_peak


def count(function: Callable, *shapes: Any) -> float:
  """Multiplications and additions of all matrix products and convolutions of a function, on any device.

  Loops of unknown length count once, of the branches of a choice the greatest. Element-wise work is left out.

  Args:
    function: pure.
    *shapes: its arguments, or `jax.ShapeDtypeStruct`s in their place.
  """
  return _count(jax.make_jaxpr(function)(*shapes).jaxpr, _products)


def calls(function: Callable, name: str, *shapes: Any) -> int:
  """How often a function calls jitted functions of some name, loops as often as they run.

  Loops of unknown length and choices are taken as by `count`; calls that are mapped over rows count once.

  Args:
    function: pure.
    name: `__name__` of what is jitted inside.
    *shapes: as for `count`.
  """
  return int(_count(jax.make_jaxpr(function)(*shapes).jaxpr, lambda equation: _is_call(equation, name)))


def _is_call(equation, name: str) -> float | None:
  return 1.0 if equation.params.get("name") == name else None


@functools.cache
def peak() -> float:
  """FLOP/s of a matrix product on this machine, measured once."""
  return matmul_peak()


def text(per_step: float, steps: int, networks: int = 1) -> str:
  """Work of one step and of all, with the least time they take at the measured rate; empty where it is not known."""
  if not math.isfinite(per_step) or not per_step:
    return ""
  total = per_step * steps * networks
  each, all_ = units.amount(per_step, "FLOP"), units.amount(total, "FLOP")
  return f"{each} a step, {all_} in all, at least {units.seconds(total / peak())}"


def _count(jaxpr, known: Callable) -> float:
  return sum(_one(equation, known) for equation in jaxpr.eqns)


def _one(equation, known: Callable) -> float:
  """What `known` tells of an equation, or where that is `None`, of the equations inside."""
  found = known(equation)
  if found is not None:
    return found
  name, inner = equation.primitive.name, [_count(jaxpr, known) for jaxpr in _inside(equation.params)]
  if name == "scan":
    return equation.params["length"] * sum(inner)
  return max(inner, default=0.0) if name == "cond" else sum(inner)


def _products(equation) -> float | None:
  name, inputs = equation.primitive.name, [variable.aval for variable in equation.invars]
  out = equation.outvars[0].aval if equation.outvars else None
  if name == "dot_general":
    (contracted, _), _ = equation.params["dimension_numbers"]
    return 2.0 * out.size * math.prod(inputs[0].shape[axis] for axis in contracted)
  if name == "conv_general_dilated":
    numbers = equation.params["dimension_numbers"]
    return 2.0 * out.size * inputs[1].size / inputs[1].shape[numbers.rhs_spec[0]]
  return _OWN[name](inputs, out) if name in _OWN else None


def _inside(params: dict[str, Any]):
  for value in params.values():
    for one in value if isinstance(value, list | tuple) else [value]:
      if isinstance(one, core.ClosedJaxpr):
        yield one.jaxpr
      elif isinstance(one, core.Jaxpr):
        yield one


# The convolutions of `jdistill.ops`: `x [G, N, H, W, I]`, `k [G, h, w, I, O]`, `g [G, N, H', W', O]`; depthwise ones
# have `x [N, H, W, C]`, `k [h, w, C]`, `g [N, H', W', C]`.
_OWN: dict[str, Callable[[list[Any], Any], float]] = {
  "jdistill_conv": lambda inputs, out: 2.0 * out.size * math.prod(inputs[1].shape[1:4]),
  "jdistill_conv_kernel": lambda inputs, out: 2.0 * inputs[1].size * math.prod(out.shape[1:4]),
  "jdistill_depthwise": lambda inputs, out: 2.0 * out.size * math.prod(inputs[1].shape[:2]),
  "jdistill_depthwise_kernel": lambda inputs, out: 2.0 * inputs[1].size * math.prod(out.shape[:2]),
}
