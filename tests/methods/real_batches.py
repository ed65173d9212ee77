"""Batches of real images by class, for tests of methods that match."""

import jax.numpy as jnp

from jdistill.base import Batch


def real_batch(x, weight=None):
  """`[classes, b, ...]` images with weights `[classes, b]`; classes and positions do not count."""
  index = jnp.zeros(x.shape[:2], jnp.int32)
  return Batch(jnp.asarray(x), index, index, None if weight is None else jnp.asarray(weight))
