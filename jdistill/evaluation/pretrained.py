"""Networks that a set with feature targets has trained, for use elsewhere."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from jdistill.base import Batch, Network, PyTree, Variables
from jdistill.evaluation.train import Protocol, train_seeds
from jdistill.models import predict


class Pretrained(NamedTuple):
  """A network that a set with feature targets has trained, for use elsewhere.

  Attributes:
    network, variables: as they are; the head regresses to the set's targets and is best thrown away.
    preprocess: takes pixels to the network's input space.
  """

  network: Network
  variables: Variables
  preprocess: Callable[[np.ndarray], np.ndarray]

  def features(self, x: np.ndarray) -> np.ndarray:
    """What enters the head, `[n, D]`, in evaluation mode.

    Args:
      x: `[n, height, width, channels]` in the set's size, uint8 in 0..255 or floats in [0, 1].

    Raises:
      UserError: images of another size.
    """
    return embeddings(self.network, self.variables, self.preprocess(x))


def embeddings(network: Network, variables: Variables, x: np.ndarray) -> np.ndarray:
  """What enters the head of a network, `[n, D]`, in evaluation mode, on images in its input space."""
  return predict(_embedding(network), variables, x)


@functools.lru_cache(maxsize=32)
def _embedding(network: Network) -> Callable[[Variables, PyTree], jax.Array]:
  return lambda variables, x: network.apply(variables.params, x, stats=variables.stats).embedding


def pretrained(
  network: Network,
  protocol: Protocol,
  examples: Batch,
  lr: float,
  preprocess: Callable[[np.ndarray], np.ndarray],
  *,
  seed: int,
  seeds: int,
) -> list[Pretrained] | None:
  """Trains `seeds` fresh networks on a set.

  Args:
    network, protocol, examples, lr: as for `train_seeds`.
    preprocess: of the result.
    seed: decides initialisations and orders.
    seeds: how many.

  Returns:
    One `Pretrained` per seed; `None` where training diverges.
  """
  trained = jax.device_get(train_seeds(network, protocol, examples, lr, key=jax.random.key(seed), seeds=seeds))
  if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trained)):
    return None
  own = [jax.tree.map(lambda leaf, i=i: leaf[i], trained) for i in range(seeds)]
  return [Pretrained(network, variables, preprocess) for variables in own]
