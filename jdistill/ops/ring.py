"""A ring buffer as a value: the last so many rows, oldest first out, in arrays of fixed shapes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jdistill.base import Key, PyTree


class Ring(NamedTuple):
  """Rows that were pushed and not yet pushed out.

  Attributes:
    rows: a pytree of `[capacity, ...]`; places that were never filled hold zeros.
    size: scalar int32, how many places are filled.
    next: scalar int32, the place that the next row takes.
  """

  rows: PyTree
  size: jax.Array
  next: jax.Array

  @property
  def capacity(self) -> int:
    """The most rows that it holds."""
    return jax.tree.leaves(self.rows)[0].shape[0]


def empty_ring(rows: PyTree, capacity: int) -> Ring:
  """A ring without rows.

  Args:
    rows: `[n, ...]` each; tells the shapes and types of a row, and nothing else.
    capacity: at least 1.

  Raises:
    ValueError: a capacity below 1.
  """
  if capacity < 1:
    raise ValueError(f"empty_ring: capacity must be at least 1, got {capacity}")
  zero = jnp.zeros((), jnp.int32)
  return Ring(jax.tree.map(lambda leaf: jnp.zeros((capacity, *leaf.shape[1:]), leaf.dtype), rows), zero, zero)


def push(ring: Ring, rows: PyTree, where: jax.Array | None = None) -> Ring:
  """Appends rows, each in the place of the oldest once all places are filled. Scan-safe: same shapes in and out.

  Args:
    ring: a `Ring`.
    rows: `[n, ...]` each, in their order.
    where: `[n]` bool, false for rows that are left out; `None` for none.

  Returns:
    The new `Ring`.

  Raises:
    ValueError: more rows than the ring holds.
  """
  count = jax.tree.leaves(rows)[0].shape[0]
  if count > ring.capacity:
    raise ValueError(f"push: {count} rows at once into a ring of {ring.capacity}; raise its capacity")
  there = jnp.ones(count, bool) if where is None else jnp.asarray(where).astype(bool)
  order = jnp.cumsum(there, dtype=jnp.int32) - 1
  # rows that are left out go to a place outside, where nothing is written
  places = jnp.where(there, (ring.next + order) % ring.capacity, ring.capacity)
  new = jax.tree.map(lambda old, row: old.at[places].set(row.astype(old.dtype), mode="drop"), ring.rows, rows)
  added = jnp.sum(there, dtype=jnp.int32)
  return Ring(new, jnp.minimum(ring.size + added, ring.capacity), (ring.next + added) % ring.capacity)


def draw_rows(ring: Ring, key: Key, count: int) -> PyTree:
  """`count` rows drawn at random, without replacement as long as there are enough, else each about as often.

  Args:
    ring: with at least one row: of an empty one the rows are zeros.
    key: random key.
    count: how many.

  Returns:
    A pytree of `[count, ...]`.
  """
  numbers = jnp.where(jnp.arange(ring.capacity) < ring.size, jax.random.uniform(key, (ring.capacity,)), 2.0)
  order = jnp.argsort(numbers)
  chosen = order[jnp.arange(count) % jnp.maximum(ring.size, 1)]
  return jax.tree.map(lambda leaf: leaf[chosen], ring.rows)
