"""Batches taken in chunks: what is a sum over examples need not hold all of them at once.

A pass over a few examples at a time keeps its activations in the processor's cache, and needs their memory only once.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jdistill.base import PyTree


def row_count(batch: PyTree) -> int | None:
  """Length of the row axis: the first axis of all leaves that have one; `None` where none has.

  Raises:
    ValueError: leaves of different lengths.
  """
  lengths = {np.shape(leaf)[0] for leaf in jax.tree.leaves(batch) if np.ndim(leaf)}
  if len(lengths) > 1:
    raise ValueError(f"rows: the first axes of a batch must agree, got lengths {sorted(lengths)}")
  return lengths.pop() if lengths else None


def largest_divisor(rows: int, most: int) -> int:
  """The largest divisor of `rows` that is at most `most` (and at least 1)."""
  return next(size for size in range(max(1, min(rows, most)), 0, -1) if rows % size == 0)


def fold_rows(
  body: Callable[[PyTree, PyTree], PyTree], carry: PyTree, batch: PyTree, chunk_size: int | None = None
) -> PyTree:
  """`carry = body(carry, chunk)` over consecutive chunks of `chunk_size` rows of a batch, as a scan.

  Args:
    body: `(carry, chunk) -> carry`.
    carry: the start.
    batch: pytree of arrays; those with at least one axis have rows on the first, scalars belong to every chunk.
    chunk_size: rows per chunk; `None` or the whole length means one call of `body` with the batch itself.

  Returns:
    The last carry.

  Raises:
    ValueError: leaves of different lengths, or a `chunk_size` that does not divide them.
  """
  rows = row_count(batch)
  if chunk_size is None or rows is None or chunk_size == rows:
    return body(carry, batch)
  if chunk_size < 1 or rows % chunk_size:
    raise ValueError(f"chunk_size: {chunk_size} does not divide {rows} rows; give a divisor")
  leaves, structure = jax.tree.flatten(batch)
  split = [leaf.reshape(-1, chunk_size, *leaf.shape[1:]) for leaf in leaves if jnp.ndim(leaf)]

  def step(carry, chunks):
    chunks = iter(chunks)
    return body(carry, structure.unflatten([next(chunks) if jnp.ndim(leaf) else leaf for leaf in leaves])), None

  return lax.scan(step, carry, split)[0]
