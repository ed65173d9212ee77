"""How much noise there is at which time, for tokens: total `sigma(t)` and its rate `sigma'(t)`, t from 0 to 1."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jdistill.ops.checks import check_number
from jdistill.ops.precision import widen


class TokenNoise(NamedTuple):
  """A noise schedule of tokens.

  Attributes:
    sigma: `t -> sigma(t)`, total noise, of any shape.
    rate: `t -> sigma'(t)`.
  """

  sigma: Callable[[jax.Array], jax.Array]
  rate: Callable[[jax.Array], jax.Array]


def loglinear(eps: float = 1e-3) -> TokenNoise:
  """`sigma(t) = -log(1 - (1 - eps) t)`: in the absorbing graph a token is masked with the probability `(1 - eps) t`.

  Args:
    eps: what is still visible at `t = 1`, in (0, 1).

  Raises:
    ValueError: outside.

  References:
    Lou et al. (arXiv 2310.16834), app. C.
  """
  check_number("loglinear", "eps", eps, lambda x: 0 < x < 1, "in (0, 1)")
  scale = 1 - eps
  return TokenNoise(lambda t: -jnp.log1p(-scale * widen(t)), lambda t: scale / (1 - scale * widen(t)))


def geometric(sigma_min: float = 1e-4, sigma_max: float = 20.0) -> TokenNoise:
  """`sigma(t) = sigma_min^(1 - t) sigma_max^t`; the defaults are the release's configuration.

  There is noise at `t = 0`, of the amount `sigma_min`: the last step of a sampler removes it.

  Args:
    sigma_min, sigma_max: `0 < sigma_min < sigma_max`.

  Raises:
    ValueError: anything else.

  References:
    Lou et al. (arXiv 2310.16834), app. C.
  """
  check_number("geometric", "sigma_min", sigma_min, lambda x: x > 0, "> 0")
  check_number("geometric", "sigma_max", sigma_max, lambda x: x > sigma_min, f"above sigma_min={sigma_min}")
  growth = math.log(sigma_max / sigma_min)

  def sigma(t: jax.Array) -> jax.Array:
    return sigma_min * jnp.exp(growth * widen(t))

  return TokenNoise(sigma, lambda t: growth * sigma(t))
