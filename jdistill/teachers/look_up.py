"""Stored targets by the names of examples."""

import jax
import jax.numpy as jnp


def known_rows(stored: jax.Array, ids: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Where examples are stored: `(rows [B], known [B] bool)`.

  Args:
    stored: `[N]` names, ascending.
    ids: `[B]` names that are looked for; one that is not there must not quietly take its neighbour's targets.
  """
  rows = jnp.minimum(jnp.searchsorted(stored, ids), stored.shape[0] - 1)
  return rows, stored[rows] == ids


def where_known(known: jax.Array, values: jax.Array) -> jax.Array:
  """Values `[B, ...]`, NaN for examples that are not stored."""
  return jnp.where(known.reshape(-1, *(1,) * (values.ndim - 1)), values, jnp.nan)
