"""Scalings around a network, so that what it takes and what it predicts have unit variance at every noise level."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jdistill.diffusion.schedules import VARIANCE_EXPLODING, Schedule, per_example
from jdistill.ops.precision import widen


class Scalings(NamedTuple):
  """Factors at each noise level: `D(x, sigma) = skip x + out F(in x, noise)`; all `[B]`."""

  skip: jax.Array
  out: jax.Array
  inner: jax.Array
  noise: jax.Array


def edm_scalings(sigma: jax.Array, sigma_data: float) -> Scalings:
  """EDM's factors (arXiv 2206.00364, table 1), with `d = sigma_data`.

      skip = d^2 / (sigma^2 + d^2)            out   = sigma d / sqrt(sigma^2 + d^2)
      in   = 1 / sqrt(sigma^2 + d^2)          noise = ln(sigma) / 4

  Args:
    sigma: `[B]`, positive.
    sigma_data: standard deviation of the data.

  Raises:
    ValueError: `sigma_data` that is not positive.
  """
  _check(sigma_data)
  sigma = widen(sigma)
  total = sigma**2 + sigma_data**2
  root = jnp.sqrt(total)
  return Scalings(sigma_data**2 / total, sigma * sigma_data / root, 1 / root, jnp.log(sigma) / 4)


def consistency_scalings(sigma: jax.Array, sigma_data: float, sigma_min: float) -> Scalings:
  """Factors whose denoiser is the identity at `sigma_min` (arXiv 2303.01469, app. C), with `d = sigma_data`.

      skip = d^2 / ((sigma - sigma_min)^2 + d^2)      out = d (sigma - sigma_min) / sqrt(sigma^2 + d^2)

  The other two are EDM's.

  Args:
    sigma: `[B]`, at least `sigma_min`.
    sigma_data: standard deviation of the data.
    sigma_min: where nothing is changed.

  Raises:
    ValueError: `sigma_data` that is not positive.
  """
  scalings = edm_scalings(sigma, sigma_data)
  above = widen(sigma) - sigma_min
  return scalings._replace(skip=sigma_data**2 / (above**2 + sigma_data**2), out=sigma_data * above * scalings.inner)


def edm_weight(sigma: jax.Array, sigma_data: float) -> jax.Array:
  """`1 / sigma^2 + 1 / sigma_data^2`, the weight that makes EDM's loss of `F` the same at all levels (eq. 8)."""
  _check(sigma_data)
  return 1 / widen(sigma) ** 2 + 1 / sigma_data**2


def preconditioned(
  network: Callable[[jax.Array, jax.Array], jax.Array],
  schedule: Schedule,
  x_t: jax.Array,
  t: jax.Array,
  sigma_data: float,
  *,
  scalings: Callable[[jax.Array], Scalings] | None = None,
) -> jax.Array:
  """The prediction of `x_0` by a network that sees and gives numbers of unit variance, for any schedule.

  `x_t / alpha` has the noise level `sigma / alpha`; EDM's factors are those of this level.

  Args:
    network: `(scaled x [B, ...], noise [B]) -> F [B, ...]`.
    schedule: the forward process.
    x_t: `[B, ...]`.
    t: `[B]`.
    sigma_data: standard deviation of the data.
    scalings: `(noise level [B]) -> Scalings`; `edm_scalings` where open.

  Returns:
    `[B, ...]`.
  """
  level = schedule.noise_ratio(t)
  factors = edm_scalings(level, sigma_data) if scalings is None else scalings(level)
  x = x_t if schedule.kind == VARIANCE_EXPLODING else x_t / per_example(schedule.alpha(t), x_t)
  inner = network(per_example(factors.inner, x) * x, factors.noise)
  return per_example(factors.skip, x) * x + per_example(factors.out, x) * inner


def _check(sigma_data: float) -> None:
  if not 0 < sigma_data < math.inf:
    raise ValueError(f"sigma_data must be positive, got {sigma_data}")
