"""The contract of denoisers: what they take, what is known of them, and what samplers start from."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from jdistill.base import Network, PyTree
from jdistill.diffusion.schedules import Schedule

BOTTLENECK = "bottleneck"  # the site that discriminators read


class Noisy(NamedTuple):
  """What a denoiser takes in the place of an image; every leaf has the same leading axis.

  Attributes:
    x: `[n, height, width, channels]`, data with noise.
    t: `[n]` float32 times of its schedule.
    cond: `[n]` int32 conditions, such as classes; the number of conditions itself stands for none.
  """

  x: jax.Array
  t: jax.Array
  cond: jax.Array


class Draws(NamedTuple):
  """What a sampler makes samples of; every leaf has the same leading axis.

  Attributes:
    eps: `[n, height, width, channels]` standard normal noise.
    cond: `[n]` int32 conditions.
    ids: `[n]` int32 names of the rows, for samplers that draw more noise.
  """

  eps: jax.Array
  cond: jax.Array
  ids: jax.Array


class Denoiser(NamedTuple):
  """What is known of a network that takes `Noisy` and predicts `x_0`.

  Attributes:
    schedule: whose times it takes.
    conditions: how many there are; 1 for none.
    shape: `(height, width, channels)`.
    sigma_data: standard deviation of the data that it is made for.
    prediction: what its network gives inside, before that becomes `x_0`.
  """

  schedule: Schedule
  conditions: int
  shape: tuple[int, int, int]
  sigma_data: float
  prediction: str


def denoise(network: Network, params: PyTree, cond: jax.Array) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """A denoiser with its parameters and conditions `[n]`, as `(x_t, t) -> x_0`."""
  return lambda x_t, t: network.apply(params, Noisy(x_t, t, cond)).logits
