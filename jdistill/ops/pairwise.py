"""Distances and similarities between all rows of two matrices, and the numerical habits of losses on them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jdistill.ops.checks import check_rank, row_mask
from jdistill.ops.precision import widen

TINY = 1e-12  # vectors shorter than this have no direction
_DIFFERENCES_AT_ONCE = 2**22  # 16 MB in float32


def safe_sqrt(x: jax.Array) -> jax.Array:
  """`sqrt(x)` with the gradient 0, instead of infinity, where `x <= 0`."""
  positive = x > 0
  return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


def safe_norm(x: jax.Array, axis: int = -1) -> jax.Array:
  """The Euclidean norm along `axis`, with the gradient 0 for zero vectors."""
  return safe_sqrt(jnp.sum(jnp.square(x), axis=axis))


def unit(x: jax.Array) -> jax.Array:
  """`x / ||x||` along the last axis; zero vectors stay zero and have no gradient."""
  norm = safe_norm(x)[..., None]
  long = norm > TINY
  return jnp.where(long, x / jnp.where(long, norm, 1), 0)


def gram(x: jax.Array, y: jax.Array) -> jax.Array:
  """`x @ y.T` over the last axis `[..., n, m]` in full precision, also where matrix units would round to bfloat16."""
  return jnp.matmul(x, jnp.swapaxes(y, -1, -2), precision=jax.lax.Precision.HIGHEST)


def _check_pair(name: str, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
  check_rank(name, "x", x, 2)
  check_rank(name, "y", y, 2)
  x, y = widen(x), widen(y)
  if x.shape[1] != y.shape[1]:
    raise ValueError(f"{name}: rows of x {x.shape} and y {y.shape} must have one width; project one side first")
  return x, y


def _over_differences(reduce: Callable[[jax.Array], jax.Array], x: jax.Array, y: jax.Array) -> jax.Array:
  """`reduce(x_i - y_j)` over the last axis, `[n, m]`; with bounded memory, also backwards, whatever the sizes."""

  def row(x_i):
    return reduce(x_i[None] - y)  # [m]

  if x.shape[0] * y.size <= _DIFFERENCES_AT_ONCE:
    return jax.vmap(row)(x)
  return jax.lax.map(jax.checkpoint(row), x, batch_size=max(1, _DIFFERENCES_AT_ONCE // y.size))


def pairwise_sq_dists(x: jax.Array, y: jax.Array, *, exact: bool = True) -> jax.Array:
  """Squared Euclidean distances between all rows: `d_ij = sum_k (x_ik - y_jk)^2`.

  Args:
    x: `[n, features]`.
    y: `[m, features]`.
    exact: sum the squared differences: never negative, exactly 0 for equal rows, correct for rows that are close to
      each other and far from the origin. `False` expands the square into a matrix product, which is much faster for
      wide rows and loses about seven digits relative to the largest squared norm (after centring).

  Returns:
    `[n, m]`, float32 (float64 for float64), in squared units of `x`. Differentiable everywhere in both.

  Raises:
    ValueError: if an argument is not a matrix or the widths differ.

  Cost: `n * m * features` operations; exact ones do not run on matrix units and take many rows in turns.
  """
  x, y = _check_pair("pairwise_sq_dists", x, y)
  if exact:
    return _over_differences(lambda difference: jnp.sum(jnp.square(difference), axis=-1), x, y)
  centre = jax.lax.stop_gradient(jnp.mean(y, axis=0, keepdims=True))  # distances do not depend on it, rounding does
  x, y = x - centre, y - centre
  squared = jnp.sum(x * x, axis=1)[:, None] + jnp.sum(y * y, axis=1)[None] - 2 * gram(x, y)
  return jnp.where(squared > 0, squared, 0)


def pairwise_cosine(x: jax.Array, y: jax.Array) -> jax.Array:
  """Cosine similarities between all rows: `c_ij = <x_i, y_j> / (||x_i|| ||y_j||)`.

  Args:
    x: `[n, features]`.
    y: `[m, features]`.

  Returns:
    `[n, m]` in [-1, 1], float32 (float64 for float64). A zero row has the similarity 0 to everything and no gradient.

  Raises:
    ValueError: if an argument is not a matrix or the widths differ.

  Cost: one matrix product.
  """
  x, y = _check_pair("pairwise_cosine", x, y)
  return gram(unit(x), unit(y))


def pairwise_l1(x: jax.Array, y: jax.Array) -> jax.Array:
  """City-block distances between all rows: `d_ij = sum_k |x_ik - y_jk|`.

  Between rows of probabilities this is twice the total variation, in [0, 2].

  Args:
    x: `[n, features]`.
    y: `[m, features]`.

  Returns:
    `[n, m]`, float32 (float64 for float64). The gradient is 0 where coordinates are equal.

  Raises:
    ValueError: if an argument is not a matrix or the widths differ.

  Cost: `n * m * features` operations, none of them on matrix units.
  """
  x, y = _check_pair("pairwise_l1", x, y)
  return _over_differences(lambda difference: jnp.sum(jnp.abs(difference), axis=-1), x, y)


def knn_mask(distances: jax.Array, k: int, *, where: jax.Array | None = None) -> jax.Array:
  """Who is near whom: `mask_ij` is true if `j` is one of the `k` nearest to `i`, itself not counted.

  Ties go to the lower index. The mask is not symmetric: `mask.T` says whose neighbour one is.

  Args:
    distances: `[n, n]`, any increasing function of the distance. No gradient.
    k: neighbours per row, in `[1, n)`.
    where: `[n]`; rows that are excluded have no neighbours and are nobody's. With fewer than `k` others left, all of
      them are neighbours.

  Returns:
    `[n, n]` booleans; `k` true ones in each row.

  Raises:
    ValueError: if `distances` is not square, `k` is outside `[1, n)` or `where` is not `[n]`.

  Cost: a partial sort of each row.
  """
  check_rank("knn_mask", "distances", distances, 2)
  distances = jnp.asarray(distances)
  n = distances.shape[0]
  if distances.shape[1] != n:
    raise ValueError(f"knn_mask: distances must be square, got {distances.shape}")
  if not 1 <= k < n:
    raise ValueError(f"knn_mask: k must be at least 1 and below the {n} rows, got {k}")
  valid = row_mask("knn_mask", where, n)
  allowed = valid[:, None] & valid[None] & ~jnp.eye(n, dtype=bool)
  ranked = jnp.where(allowed, jax.lax.stop_gradient(distances), jnp.inf)
  _, nearest = jax.lax.top_k(-ranked, k)  # [n, k]
  return jnp.zeros((n, n), bool).at[jnp.arange(n)[:, None], nearest].set(True) & allowed
