"""Similarities between whole representations, as measures and as losses."""

import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.losses._checks import check_temperature, scaled
from jdistill.ops.checks import (
  check_at_least,
  check_batch,
  check_positive,
  check_rank,
  check_same_shape,
  keep,
  leading_mask,
  row_mask,
)
from jdistill.ops.logits import EXCLUDED, log_probs
from jdistill.ops.pairwise import gram, safe_sqrt
from jdistill.ops.precision import widen


def _representations(name, x, y, least, where):
  check_rank(name, "x", x, 2)
  check_rank(name, "y", y, 2)
  x, y = widen(x), widen(y)
  if x.shape[0] != y.shape[0]:
    raise ValueError(f"{name}: x {x.shape} and y {y.shape} must hold the same examples")
  check_batch(name, x.shape[0], least)
  valid = row_mask(name, where, x.shape[0])
  return _centred(x, valid), _centred(y, valid), valid


def _centred(x: jax.Array, valid: jax.Array) -> jax.Array:
  """`x` minus its mean over the valid rows, zero in the others; exactly zero if all valid rows are equal."""
  # one row is subtracted first: the mean of equal numbers need not round to that number
  x = keep(x - jax.lax.stop_gradient(x[jnp.argmax(valid)])[None], valid)
  count = jnp.maximum(jnp.sum(valid), 1).astype(x.dtype)
  return keep(x - (jnp.sum(x, axis=0) / count)[None], valid)


def cka_linear(x: jax.Array, y: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
  """Linear centred kernel alignment: `||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F)` with centred columns.

  1 for representations that differ by a rotation and a scale, not for general invertible maps. It is biased: near 1
  whenever there are fewer examples than features, whatever these are, so a warning says so; from minibatches use
  `hsic1`. As a loss take `1 - cka_linear(student, jax.lax.stop_gradient(teacher))`. **Coupled over the batch.**

  Args:
    x: `[n, p]`. Differentiable.
    y: `[n, q]`, the same examples. Differentiable.
    where: `[n]`; excluded examples count for nothing.

  Returns:
    A scalar in [0, 1]; 0, with the gradient 0, where one side is constant.

  Raises:
    ValueError: if `x` or `y` is not a matrix, they differ in rows, there is one row, or `where` is not `[n]`.

  Cost: `n * (p + q)^2` or `n^2 * (p + q)`, whichever is less.

  References:
    Kornblith et al., "Similarity of Neural Network Representations Revisited" (arXiv 1905.00414), sec. 3.
  """
  x, y, _ = _representations("cka_linear", x, y, 2, where)
  size, width = x.shape[0], max(x.shape[1], y.shape[1])
  if size < width:
    warnings.warn(
      f"cka_linear: {size} examples of width {width} give values near 1 whatever they are; use more, or hsic1",
      stacklevel=2,
    )

  def in_range(z):
    # scale does not matter to the result, so a constant one keeps fourth powers in range
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(z)))
    return z / jnp.where(largest > 0, largest, 1)

  x, y = in_range(x), in_range(y)
  if x.shape[1] + y.shape[1] <= size:
    both, own_x, own_y = (jnp.sum(jnp.square(gram(a.T, b.T))) for a, b in ((x, y), (x, x), (y, y)))
  else:
    kernel_x, kernel_y = gram(x, x), gram(y, y)
    both, own_x, own_y = (jnp.sum(a * b) for a, b in ((kernel_x, kernel_y), (kernel_x, kernel_x), (kernel_y, kernel_y)))
  scale = safe_sqrt(own_x) * safe_sqrt(own_y)
  return jnp.where(scale > 0, both / jnp.where(scale > 0, scale, 1), 0)


def hsic1(x: jax.Array, y: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
  """The unbiased estimate of the Hilbert-Schmidt independence criterion with linear kernels, for minibatch CKA.

  `[tr(K L) + (1'K 1)(1'L 1) / ((n - 1)(n - 2)) - 2 / (n - 2) 1'K L 1] / (n (n - 3))` with `K = X X^T`, `L = Y Y^T` and
  zero diagonals. CKA over many batches is `sum hsic1(x, y) / sqrt(sum hsic1(x, x) * sum hsic1(y, y))`: add first,
  divide once. **Coupled over the batch.**

  Args:
    x: `[n, p]`. Differentiable.
    y: `[n, q]`, the same examples. Differentiable.
    where: `[n]`; excluded examples count for nothing.

  Returns:
    A scalar in squared units of `x` times squared units of `y`; may be negative. 0 if fewer than four examples are
    left by `where`.

  Raises:
    ValueError: if `x` or `y` is not a matrix, they differ in rows, there are fewer than four, or `where` is not `[n]`.

  Cost: `n^2 * (p + q)`.

  References:
    Song et al., "Feature Selection via Dependence Maximization" (JMLR 2012), eq. 5 (number unverified), and Nguyen et
    al., "Do Wide and Deep Networks Learn the Same Things?" (arXiv 2010.15327), eq. 3 (number unverified).
  """
  x, y, valid = _representations("hsic1", x, y, 4, where)
  # the estimate does not depend on the origin; centred, its three terms do not cancel
  off_diagonal = ~jnp.eye(x.shape[0], dtype=bool)
  k = jnp.where(off_diagonal, gram(x, x), 0)
  l = jnp.where(off_diagonal, gram(y, y), 0)
  n = jnp.sum(valid).astype(x.dtype)
  enough = n >= 4
  n = jnp.where(enough, n, 4)
  rows_k, rows_l = jnp.sum(k, axis=1), jnp.sum(l, axis=1)
  total = jnp.sum(k * l) + jnp.sum(rows_k) * jnp.sum(rows_l) / ((n - 1) * (n - 2))
  total = total - 2 / (n - 2) * jnp.sum(rows_k * rows_l)
  return jnp.where(enough, total / (n * (n - 3)), 0)


def barlow_twins(
  a: jax.Array, b: jax.Array, *, redundancy_weight: float = 0.005, eps: float = 1e-5, where: jax.Array | None = None
) -> jax.Array:
  """Barlow Twins: features of two views that agree across views and do not repeat each other.

      C_ij = 1/n sum_k u_ki v_kj,   loss = sum_i (1 - C_ii)^2 + redundancy_weight sum_(i != j) C_ij^2

  with `u` and `v` the columns of `a` and `b` less their means over the batch, divided by `sqrt(var + eps)` (biased
  variance, as a batch norm without scale does it). It needs no labels, and no pairs but those of the same example.
  **Coupled over the batch.**

  Args:
    a: `[n, D]`, projections of one view of each example. Differentiable.
    b: `[n, D]`, of another view. Differentiable.
    redundancy_weight: of the entries off the diagonal, at least 0; 0.005 for 8192 features in the paper.
    eps: added to the variances, in squared units of the features: a constant feature correlates with nothing and has a
      finite gradient.
    where: `[n]`; excluded examples count for nothing.

  Returns:
    A scalar, summed over the entries of `C`; at least 0, `D` for constant features, and 0 without any example.

  Raises:
    ValueError: if `a` and `b` are not matrices of one shape, there is one example, `redundancy_weight < 0`,
      `eps <= 0`, or `where` is not `[n]`.

  Cost: `n D^2` on matrix units.

  References:
    Zbontar et al., "Barlow Twins: Self-Supervised Learning via Redundancy Reduction" (arXiv 2103.03230), eqs. 1 and 2.
  """
  name = "barlow_twins"
  check_same_shape(name, a=a, b=b)
  check_at_least(name, 0, redundancy_weight=redundancy_weight)
  check_positive(name, eps=eps)
  a, b, valid = _representations(name, a, b, 2, where)
  count = jnp.maximum(jnp.sum(valid), 1).astype(a.dtype)
  u, v = (x / jnp.sqrt(jnp.sum(jnp.square(x), axis=0, keepdims=True) / count + eps) for x in (a, b))
  cross = gram(u.T, v.T) / count  # [D, D]
  diagonal = jnp.diagonal(cross)
  off = jnp.sum(jnp.square(cross)) - jnp.sum(jnp.square(diagonal))
  loss = jnp.sum(jnp.square(1 - diagonal)) + redundancy_weight * jnp.maximum(off, 0)
  return jnp.where(jnp.any(valid), loss, 0)


def channel_wise_kl(
  student_features: jax.Array,
  teacher_features: jax.Array,
  *,
  temperature: float = 4.0,
  scale_t2: bool = True,
  where: jax.Array | None = None,
) -> jax.Array:
  """CWD: per channel, where is the activation? `T^2 KL(softmax_hw(f_t / T) || softmax_hw(f_s / T))`.

  Args:
    student_features: `[B, H, W, channels]` maps or logits of a segmentation; or any `[B, ..., channels]` with places.
      A constant added to a channel changes nothing.
    teacher_features: the same shape. No gradient.
    temperature: `T > 0`; 4 in the paper.
    scale_t2: multiply by `T^2`.
    where: `[B]`, or `[B, H, W]` (or a leading part of it): only these places enter the softmaxes.

  Returns:
    `[B, channels]` in nats, sum over places; take the mean over both axes. 0 without places. The weight is 3 in LAD.

  Raises:
    ValueError: if the shapes differ, there are fewer than three axes, `temperature <= 0`, or `where` is not a leading
      part of `[B, H, W]`.

  Cost: one pass over the maps.

  References:
    Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction" (arXiv 2011.13256), eqs. 3-4 (numbers
    unverified).
  """
  name = "channel_wise_kl"
  check_temperature(name, temperature)
  check_same_shape(name, student_features=student_features, teacher_features=teacher_features)
  shape = np.shape(student_features)
  if len(shape) < 3:
    raise ValueError(f"{name}: features must be [B, ..., channels] with places, got {shape}")
  rows = (shape[0], math.prod(shape[1:-1]), shape[-1])  # [B, places, channels]
  kept = keep(jnp.ones(shape, bool), leading_mask(name, where, shape[:-1])).reshape(rows)

  def log_places(features):
    return log_probs(jnp.where(kept, widen(features).reshape(rows), EXCLUDED), temperature, axis=1)

  student, teacher = log_places(student_features), log_places(jax.lax.stop_gradient(widen(teacher_features)))
  divergence = jnp.sum(jnp.where(kept, jnp.exp(teacher) * (teacher - student), 0), axis=1)
  return scaled(divergence, temperature, scale_t2)
