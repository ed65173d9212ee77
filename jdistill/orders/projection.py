"""Random projections of the axis of batches: fewer vectors stand for many, and products per parameter stay exact."""

import jax
import jax.numpy as jnp

from jdistill.base import Key


def projection(key: Key, batches: int, size: int, dtype: jnp.dtype = jnp.float32) -> jax.Array:
  """A random matrix `R [T, k]` of independent normal entries with variance `1 / k`, so that `E[R R'] = I`.

  Args:
    key: decides the matrix.
    batches: `T`.
    size: `k`; what is recovered of a vector has a relative error of about `sqrt(T / k)` where all batches are alike
      in size and not in direction.
    dtype: of the entries.
  """
  return jax.random.normal(key, (batches, size), dtype) / jnp.sqrt(jnp.asarray(size, dtype))


def project(x: jax.Array, r: jax.Array) -> jax.Array:
  """`R' X`, mixtures of the rows of `x`.

  Args:
    x: `[T, P]`, one vector per batch.
    r: `[T, k]` of `projection`.

  Returns:
    `[k, P]`. Its columns keep their places, so elementwise products of what is recovered are products of parameters;
    a projection of the axis `P` would break them.

  Raises:
    ValueError: shapes that do not match.
  """
  if x.ndim != 2 or r.ndim != 2 or x.shape[0] != r.shape[0]:
    raise ValueError(f"project: x {x.shape} and r {r.shape} do not match; give [T, P] and [T, k]")
  return jnp.einsum("tk,tp->kp", r, x)


def recover(mixed: jax.Array, r: jax.Array, batch: jax.Array) -> jax.Array:
  """The estimate of one row, `R_batch (R' X)`, unbiased over random `R`.

  Args:
    mixtures: `[k, P]` of `project`.
    r: `[T, k]`.
    batch: which row, a scalar.
  """
  return jnp.einsum("k,kp->p", r[batch], mixed)
