"""Networks asked about many examples, a batch at a time."""

import functools
from collections.abc import Callable

import jax
import numpy as np

from jdistill.base import Network, PyTree


def predict(
  network: Network | Callable[[PyTree, PyTree], PyTree], variables: PyTree, x: PyTree, *, batch_size: int = 500
) -> PyTree:
  """What a network gives for `n` examples in evaluation mode, batch by batch, by one compiled program.

  Args:
    network: a `Network`, whose logits are given, or any `(variables, x) -> pytree` of arrays with a leading axis. The
      programs of the last few are kept: hand in the same object again to use them.
    variables: its parameters and running statistics.
    x: pytree of arrays `[n, ...]`, `n >= 1`.
    batch_size: examples at once; the last batch is filled up with its last example.

  Returns:
    The same pytree on the host, `[n, ...]`.
  """
  program = _program(network)
  count = len(jax.tree.leaves(x)[0])
  size, parts = min(batch_size, count), []
  for begin in range(0, count, size):
    places = np.minimum(np.arange(begin, begin + size), count - 1)
    found = jax.device_get(program(variables, jax.tree.map(lambda leaf, places=places: np.asarray(leaf)[places], x)))
    parts.append(jax.tree.map(lambda leaf, begin=begin: leaf[: count - begin], found))
  return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


@functools.lru_cache(maxsize=32)
def _program(network: Network | Callable) -> Callable:
  if isinstance(network, Network):
    return jax.jit(lambda variables, x: network.apply(variables.params, x, stats=variables.stats).logits)
  return jax.jit(network)
