"""One step of inner training, and the products of its second derivatives that the reverse recursions need."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jdistill.base import PyTree
from jdistill.ops.rows import fold_rows

InnerLoss = Callable[[PyTree, PyTree, PyTree], jax.Array]  # (params, shared or its rows, batch) -> scalar


class Inner(NamedTuple):
  """What stays the same over all steps; hashable, so that it can be a static argument.

  Attributes:
    loss: of one step, or of a chunk of its rows.
    momentum: coefficient of the velocity.
    chunk_size: rows that are looked at together; `None` for all.
    axis_name: the mesh axis over which the rows of a step are spread, or `None`.
  """

  loss: InnerLoss
  momentum: float = 0.0
  chunk_size: int | None = None
  axis_name: str | None = None


class Batch(NamedTuple):
  """The rows of one step (or of all, with a leading axis): which of the shared examples, and what else is known."""

  indices: jax.Array | None
  rest: PyTree


class Carry(NamedTuple):
  """The state of inner training. Without momentum there is no velocity, so plain SGD pays nothing for the option."""

  params: PyTree
  velocity: PyTree | None


class Pull(NamedTuple):
  """Derivatives of a step's loss along one direction of the parameters.

  Attributes:
    slope: scalar, `<gradient, direction>`.
    shared: what was given, plus `factor * (d_shared gradient)^T direction`.
    curvature: `H direction`, in the structure of the parameters; `None` where not wanted.
    gradient: in the structure of the parameters; `None` where not wanted.
  """

  slope: jax.Array
  shared: PyTree
  curvature: PyTree | None
  gradient: PyTree | None


def axpy(a: jax.Array, x: PyTree, y: PyTree) -> PyTree:
  """`a x + y` leaf by leaf."""
  return jax.tree.map(lambda u, v: a.astype(u.dtype) * u + v, x, y)


def scale(a: jax.Array, x: PyTree) -> PyTree:
  """`a x` leaf by leaf."""
  return jax.tree.map(lambda u: a.astype(u.dtype) * u, x)


def add(x: PyTree, y: PyTree) -> PyTree:
  """`x + y` leaf by leaf."""
  return jax.tree.map(jnp.add, x, y)


def dot(x: PyTree, y: PyTree) -> jax.Array:
  """The inner product over all leaves."""
  return sum(jnp.vdot(u, v) for u, v in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True))


def zeros(tree: PyTree) -> PyTree:
  """Zeros in the structure of a tree."""
  return jax.tree.map(jnp.zeros_like, tree)


def no_gradient(tree: PyTree) -> PyTree:
  """The cotangent of arguments that have none: zeros, of the type that JAX wants for integers and keys."""

  def zero(leaf: Any):
    if jnp.issubdtype(leaf.dtype, jnp.inexact):
      return jnp.zeros_like(leaf)
    return np.zeros(leaf.shape, jax.dtypes.float0)

  return jax.tree.map(zero, tree)


def begin(params: PyTree, momentum: float) -> Carry:
  """The carry before the first step."""
  return Carry(params, zeros(params) if momentum else None)


def all_reduce(inner: Inner, tree: PyTree) -> PyTree:
  """The sum over the devices that hold the rows; the tree itself where there is one."""
  return tree if inner.axis_name is None else lax.psum(tree, inner.axis_name)


def _rows(shared: PyTree, indices: jax.Array | None) -> PyTree:
  return shared if indices is None else jax.tree.map(lambda leaf: leaf[indices], shared)


def _put(total: PyTree, indices: jax.Array | None, rows: PyTree) -> PyTree:
  """Adds the cotangents of picked rows where they came from, in place."""
  if indices is None:
    return add(total, rows)
  return jax.tree.map(lambda t, r: t.at[indices].add(r), total, rows)


def gradient(inner: Inner, params: PyTree, shared: PyTree, batch: Batch) -> PyTree:
  """The gradient of the step's loss in the parameters, chunk by chunk and summed over devices."""

  def body(total, chunk):
    return add(total, jax.grad(inner.loss)(params, _rows(shared, chunk.indices), chunk.rest))

  return all_reduce(inner, fold_rows(body, zeros(params), batch, inner.chunk_size))


def value(inner: Inner, params: PyTree, shared: PyTree, batch: Batch) -> jax.Array:
  """The step's loss on this device."""

  def body(total, chunk):
    return total + inner.loss(params, _rows(shared, chunk.indices), chunk.rest)

  return fold_rows(body, jnp.zeros((), jnp.result_type(*jax.tree.leaves(params))), batch, inner.chunk_size)


def step(inner: Inner, carry: Carry, shared: PyTree, lr: jax.Array, batch: Batch) -> tuple[Carry, PyTree]:
  """One step of SGD; the new carry and what it moved along (the new velocity, or the gradient)."""
  moved = gradient(inner, carry.params, shared, batch)
  if inner.momentum:
    moved = jax.tree.map(lambda v, g: inner.momentum * v + g, carry.velocity, moved)
  return Carry(axpy(-lr, moved, carry.params), moved if inner.momentum else None), moved


def pull(
  inner: Inner,
  params: PyTree,
  direction: PyTree,
  shared: PyTree,
  batch: Batch,
  *,
  factor: jax.Array,
  total: PyTree,
  curvature: bool = True,
  gradient: bool = False,
) -> Pull:
  """Products with a step's second derivatives, as one forward-mode derivative of its gradient.

  The gradient itself is left out unless wanted, and its work with it: its product with the direction is the slope of
  the loss, which the same pass gives. `curvature` and `gradient` are summed over devices; `slope` and `shared` are this
  device's part, whose sums can wait until the last step.

  Args:
    inner: what stays the same over all steps.
    params: where.
    direction: in the structure of `params`.
    shared: what the step's rows are picked from.
    batch: of one step.
    factor: scalar, multiplies what is added to `total`.
    total: in the structure of `shared`.
    curvature: whether `H direction` is wanted.
    gradient: whether the gradient is.
  """

  def body(carry: Pull, chunk: Batch) -> Pull:
    rows = _rows(shared, chunk.indices)

    def both(p):
      return jax.value_and_grad(inner.loss, argnums=(0, 1))(p, rows, chunk.rest)

    (_, (grads, _)), (slope, (curved, cross)) = jax.jvp(both, (params,), (direction,))
    return Pull(
      carry.slope + slope,
      _put(carry.shared, chunk.indices, scale(factor, cross)),
      add(carry.curvature, curved) if curvature else None,
      add(carry.gradient, grads) if gradient else None,
    )

  none = jnp.zeros((), jnp.result_type(*jax.tree.leaves(params)))
  start = Pull(none, total, zeros(params) if curvature else None, zeros(params) if gradient else None)
  out = fold_rows(body, start, batch, inner.chunk_size)
  whole = all_reduce(inner, (out.curvature, out.gradient))
  return Pull(out.slope, out.shared, *whole)
