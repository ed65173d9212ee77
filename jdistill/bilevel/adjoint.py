"""The exact reverse recursion of SGD by forward-over-reverse derivatives: routes `mixed`, `nested_remat`, `truncated`.

With `lam` the cotangent of the parameters and `nu` that of the velocity after a step, `w = nu - lr * lam` is the
cotangent of the step's gradient, and going back over the step means

    lam      <- lam + H w
    nu       <- momentum * w
    d shared += (d_shared gradient)^T w
    d lr     += -<v, lam>          v what the step moved along

Without momentum `w = -lr * lam`, and the derivative is taken along `lam` itself: then `<v, lam>` is the slope of the
loss, and no gradient has to be computed again. With momentum, `v` is the velocity that the next step starts from.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jdistill.base import PyTree
from jdistill.bilevel import inner as inner_lib
from jdistill.bilevel.inner import Batch, Carry, Inner


class Adjoint(NamedTuple):
  """What the reverse recursion carries: cotangents of the carry, of the shared values and of the learning rate.

  `shared` and `lr` are this device's part until `finish`. `moved` is the velocity after the step that comes next in the
  reverse order; `None` without momentum.
  """

  params: PyTree
  velocity: PyTree | None
  shared: PyTree
  lr: jax.Array
  moved: PyTree | None


def walk(inner: Inner, carry: Carry, shared: PyTree, batches: Batch, lr: jax.Array, keep: bool = False):
  """Inner training; gives the last carry, and per step the carry before it with (where kept) what it moved along."""

  def body(carry, batch):
    new, moved = inner_lib.step(inner, carry, shared, lr, batch)
    return new, (carry, moved if keep else None)

  return lax.scan(body, carry, batches)


def start_back(inner: Inner, cotangent: Carry, last: Carry, shared: PyTree, lr: jax.Array) -> Adjoint:
  """The adjoint after the last step."""
  velocity = cotangent.velocity
  if inner.momentum and velocity is None:
    velocity = inner_lib.zeros(cotangent.params)
  return Adjoint(cotangent.params, velocity, inner_lib.zeros(shared), jnp.zeros_like(lr), last.velocity)


def walk_back(inner: Inner, adjoint: Adjoint, trace: PyTree, shared: PyTree, batches: Batch, lr: jax.Array) -> Adjoint:
  """The reverse recursion over the steps of a trace, one forward-over-reverse derivative each."""

  def body(adjoint: Adjoint, row):
    (before, kept), batch = row
    lam = adjoint.params
    if inner.momentum:
      direction, factor = inner_lib.axpy(-lr, lam, adjoint.velocity), jnp.ones_like(lr)
    else:
      direction, factor = lam, -lr
    out = inner_lib.pull(inner, before.params, direction, shared, batch, factor=factor, total=adjoint.shared)
    velocity = inner_lib.scale(jnp.asarray(inner.momentum, lr.dtype), direction) if inner.momentum else None
    moved = kept if kept is not None else adjoint.moved
    slope = out.slope if moved is None else _own_part(inner, inner_lib.dot(moved, lam))
    return Adjoint(
      inner_lib.axpy(factor, out.curvature, lam),
      velocity,
      out.shared,
      adjoint.lr - slope.astype(adjoint.lr.dtype),
      before.velocity,
    ), None

  return lax.scan(body, adjoint, (trace, batches), reverse=True)[0]


def _own_part(inner: Inner, total: jax.Array) -> jax.Array:
  """This device's part of a number that all devices know, so that the sum at the end gives it once."""
  return total if inner.axis_name is None else total / lax.axis_size(inner.axis_name)


def finish(inner: Inner, adjoint: Adjoint) -> Adjoint:
  """Sums over devices what was kept apart."""
  shared, lr = inner_lib.all_reduce(inner, (adjoint.shared, adjoint.lr))
  return adjoint._replace(shared=shared, lr=lr)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def mixed(inner: Inner, keep: bool, carry: Carry, shared: PyTree, batches: Batch, lr: jax.Array) -> Carry:
  """Inner training whose reverse pass keeps one parameter vector (and velocity, and gradient if `keep`) per step."""
  return _mixed_forward(inner, keep, carry, shared, batches, lr)[0]


def _mixed_forward(inner, keep, carry, shared, batches, lr):
  last, trace = walk(inner, carry, shared, batches, lr, keep)
  return last, (trace, last._replace(params=None), shared, batches, lr)


def _mixed_backward(inner, keep, residuals, cotangent):
  del keep
  trace, last, shared, batches, lr = residuals
  adjoint = start_back(inner, cotangent, last, shared, lr)
  adjoint = finish(inner, walk_back(inner, adjoint, trace, shared, batches, lr))
  return Carry(adjoint.params, adjoint.velocity), adjoint.shared, inner_lib.no_gradient(batches), adjoint.lr


mixed.defvjp(_mixed_forward, _mixed_backward)


def truncated(inner: Inner, window: int | None, carry: Carry, shared: PyTree, batches: Batch, lr: jax.Array) -> Carry:
  """The last `window` steps by `mixed`, from a start that is held constant.

  Raises:
    ValueError: a window that is not in `1..steps`.
  """
  steps = jax.tree.leaves(batches)[0].shape[0]
  if window is None or not 1 <= window <= steps:
    raise ValueError(f"unroll: gradient='truncated' needs a window of 1..{steps} steps, got window={window}")
  early, late = (
    jax.tree.map(lambda leaf, part=part: leaf[part], batches)
    for part in (slice(None, steps - window), slice(steps - window, None))
  )
  if window < steps:
    held = lax.stop_gradient((carry, shared, lr))
    carry = lax.stop_gradient(walk(inner, held[0], held[1], early, held[2])[0])
  return mixed(inner, False, carry, shared, late, lr)


def _stretches(batches: PyTree) -> tuple[PyTree, PyTree | None]:
  """Cuts the steps into `[stretches, length, ...]` with a length near their square root, and the rest, if any."""
  steps = jax.tree.leaves(batches)[0].shape[0]
  length = max(1, math.isqrt(steps))
  whole = steps // length * length
  head = jax.tree.map(lambda leaf: leaf[:whole].reshape(-1, length, *leaf.shape[1:]), batches)
  return head, jax.tree.map(lambda leaf: leaf[whole:], batches) if whole < steps else None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def nested(inner: Inner, carry: Carry, shared: PyTree, batches: Batch, lr: jax.Array) -> Carry:
  """`mixed` over stretches of which only the starts are kept."""
  return _nested_forward(inner, carry, shared, batches, lr)[0]


def _nested_forward(inner, carry, shared, batches, lr):
  head, tail = _stretches(batches)

  def stretch(carry, rows):
    return walk(inner, carry, shared, rows, lr)[0], carry

  carry, starts = lax.scan(stretch, carry, head)
  last = carry if tail is None else walk(inner, carry, shared, tail, lr)[0]
  return last, (starts, carry, last._replace(params=None), shared, batches, lr)


def _nested_backward(inner, residuals, cotangent):
  starts, tail_start, last, shared, batches, lr = residuals
  head, tail = _stretches(batches)

  def stretch(adjoint, row):
    start, rows = row
    trace = walk(inner, start, shared, rows, lr)[1]
    return walk_back(inner, adjoint, trace, shared, rows, lr), None

  adjoint = start_back(inner, cotangent, last, shared, lr)
  if tail is not None:
    adjoint, _ = stretch(adjoint, (tail_start, tail))
  adjoint, _ = lax.scan(stretch, adjoint, (starts, head), reverse=True)
  adjoint = finish(inner, adjoint)
  return Carry(adjoint.params, adjoint.velocity), adjoint.shared, inner_lib.no_gradient(batches), adjoint.lr


nested.defvjp(_nested_forward, _nested_backward)
