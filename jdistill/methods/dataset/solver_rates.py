"""Learning rates of two solvers that find themselves: grown until a solve is uneven, and kept near there."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

_EVERY, _FAIL_SHARE, _FALL_SHARE = 50, 0.29, 0.7
_SHRINK, _GROW = 0.9, 1.05
_FIRST_GROW, _FIRST_SHRINK, _MOST = 1.2, 0.7, 1000.0


class Rates(NamedTuple):
  """The rates of solvers.

  Attributes:
    rates: `[solvers]` float32.
    fails: `[solvers]` int32, solves since the last look that ended above their start, or were not finite.
    falls: `[solvers]` int32, those that fell in every step.
  """

  rates: jax.Array
  fails: jax.Array
  falls: jax.Array


def start_rates(*rates: float | jax.Array) -> Rates:
  """Rates of solvers that have not done anything yet."""
  none = jnp.zeros(len(rates), jnp.int32)
  return Rates(jnp.stack([jnp.asarray(rate, jnp.float32) for rate in rates]), none, none)


def grown(values: Callable[[jax.Array], jax.Array], rate: float) -> jax.Array:
  """0.7 of the first of `rate`, `1.2 rate`, ... (up to 1000) at which the values of a solve do not fall in every step.

  Args:
    values: `(rate) -> [steps]`, the objective of a solve before each step.
    rate: where the search starts.
  """
  falls = lambda rate: _falls(values(rate)) & (rate < _MOST)  # noqa: E731
  last = lax.while_loop(falls, lambda rate: _FIRST_GROW * rate, jnp.asarray(rate, jnp.float32))
  return _FIRST_SHRINK * last


def adapted(rates: Rates, inner: jax.Array, solver: jax.Array, count: jax.Array) -> Rates:
  """The rates after one more solve of each.

  Every 50 solves a rate is cut to 0.9 of itself where 29% of them failed, or else grows by 1.05 where 70% fell in every
  step.

  Args:
    rates: before.
    inner, solver: `[steps]` values of the solves.
    count: scalar int32, solves with this one.

  References:
    The released code of RCIG (arXiv 2302.06755).
  """
  solves = (inner, solver)
  fails = rates.fails + jnp.stack([_fails(values) for values in solves]).astype(jnp.int32)
  falls = rates.falls + jnp.stack([_falls(values) for values in solves]).astype(jnp.int32)
  cut, raised = fails >= math.ceil(_FAIL_SHARE * _EVERY), falls >= math.ceil(_FALL_SHARE * _EVERY)
  factor = jnp.where(cut, _SHRINK, jnp.where(raised, _GROW, 1.0))
  look = count % _EVERY == 0
  none = jnp.zeros_like(fails)
  return Rates(
    jnp.where(look, rates.rates * factor, rates.rates), jnp.where(look, none, fails), jnp.where(look, none, falls)
  )


def _falls(values: jax.Array) -> jax.Array:
  return jnp.all(values[1:] < values[:-1])


def _fails(values: jax.Array) -> jax.Array:
  return ~(values[-1] <= values[0])
