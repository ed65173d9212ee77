"""Many networks at once, and networks as functions of one flat parameter vector."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jdistill.base import Apply, Key, Network, Outputs, PyTree, Sites, UserError, Variables


class FlatNetwork(NamedTuple):
  """A network over flat parameter vectors.

  Attributes:
    apply: an `Apply` whose params are `theta [size]`.
    ravel: `params -> theta [size]`; leaves follow each other in the order of `jax.tree.leaves` (dict keys sorted), each
      in row-major order.
    unravel: `theta [size] -> params`, its inverse.
    size: number of parameters.
  """

  apply: Apply
  ravel: Callable[[PyTree], jax.Array]
  unravel: Callable[[jax.Array], PyTree]
  size: int


def stacked_init(network: Network, key: Key, n: int) -> Variables:
  """Initialises `n` independent networks; the i-th is `network.init(jax.random.split(key, n)[i])`.

  Args:
    network: any `Network`.
    key: a typed key.
    n: number of networks, at least 1.

  Returns:
    `Variables` whose leaves have a leading axis `[n, ...]`.

  Raises:
    UserError: `n` is below 1.
  """
  if n < 1:
    raise UserError(f"n: {n} networks asked for; give at least 1")
  return jax.vmap(network.init)(jax.random.split(key, n))


def flatten(network: Network, example: Variables | PyTree | None = None) -> FlatNetwork:
  """Turns a network into a function of one vector, `flat.apply(theta, x) == network.apply(flat.unravel(theta), x)`.

  Args:
    network: any `Network`.
    example: `Variables` or params of one network (not stacked); only shapes and dtypes matter. `None` asks `init` for
      the shapes without computing.

  Returns:
    `FlatNetwork(apply, ravel, unravel, size)`.
  """
  if example is None:
    example = jax.eval_shape(network.init, jax.random.key(0))
  params = example.params if isinstance(example, Variables) else example
  zeros, unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), params))

  def ravel(params: PyTree) -> jax.Array:
    return ravel_pytree(params)[0]

  def apply(
    theta: jax.Array,
    x: jax.Array,
    *,
    train: bool = False,
    rngs: Mapping[str, Key] | None = None,
    stats: PyTree | None = None,
    sites: Sites | None = None,
  ) -> Outputs:
    return network.apply(unravel(theta), x, train=train, rngs=rngs, stats=stats, sites=sites)

  return FlatNetwork(apply, ravel, unravel, zeros.size)
