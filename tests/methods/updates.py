"""The input of one update from plain data."""

import jax
import jax.numpy as jnp

from jdistill.methods.knowledge import StudentInput


def update_of(data, rows=None, number=0, **options):
  """Update `number` of epochs of one update each, on some rows of the data or all of them."""
  rows = jnp.arange(data.y.shape[0], dtype=jnp.int32) if rows is None else jnp.asarray(rows, jnp.int32)
  batch = jax.tree.map(lambda leaf: leaf[rows], data)
  return StudentInput(batch, jnp.int32(number), jnp.float32(number), rows, **options)
