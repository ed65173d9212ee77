"""Networks as functions of one flat parameter vector."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jdistill.base import Apply, Network, Outputs, PyTree, Variables


class FlatNetwork(NamedTuple):
  """A network over flat parameter vectors.

  Attributes:
    apply: an `Apply` whose params are `theta [size]`.
    ravel: `params -> theta [size]`; leaves follow each other in the order of `jax.tree.leaves` (dict keys sorted), each
      in row-major order.
    unravel: `theta [size] -> params`, its inverse.
    size: number of parameters.
    shapes: of the leaves, in their order.
  """

  apply: Apply
  ravel: Callable[[PyTree], jax.Array]
  unravel: Callable[[jax.Array], PyTree]
  size: int
  shapes: tuple[tuple[int, ...], ...]


def flatten(network: Network, example: Variables | PyTree | None = None) -> FlatNetwork:
  """Turns a network into a function of one vector, `flat.apply(theta, x) == network.apply(flat.unravel(theta), x)`.

  Args:
    network: any `Network`.
    example: `Variables` or params of one network (not stacked); only shapes and dtypes matter. `None` asks `init` for
      the shapes without computing.
  """
  if example is None:
    example = jax.eval_shape(network.init, jax.random.key(0))
  params = example.params if isinstance(example, Variables) else example
  zeros, unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), params))

  def apply(theta: jax.Array, x: jax.Array, **options: Any) -> Outputs:
    return network.apply(unravel(theta), x, **options)

  shapes = tuple(leaf.shape for leaf in jax.tree.leaves(params))
  return FlatNetwork(apply, lambda params: ravel_pytree(params)[0], unravel, zeros.size, shapes)
