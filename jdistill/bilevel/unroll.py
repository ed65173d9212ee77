"""Gradients through inner training: `N` steps of SGD on a loss, differentiable in what the loss was made of.

    g_n         = grad_theta loss(theta_n, shared, batch_n)
    v_{n+1}     = momentum * v_n + g_n
    theta_{n+1} = theta_n - lr * v_{n+1}

`unroll` returns `theta_N` and has one meaning and several gradient routes. With `lam` the cotangent of `theta_N`, the
exact reverse recursion of plain SGD is

    lam      <- lam - lr * H_n lam
    d shared += -lr * (d_shared grad_theta loss)^T lam
    d lr     += -<g_n, lam>

and because second derivatives commute, both products are one forward-mode derivative: the tangent of
`theta -> (grad_theta, grad_shared) loss` in direction `lam`. Route `mixed` computes just that, step by step, and so
keeps neither the activations of the inner backward pass nor those of any other step.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jdistill.base import PyTree

ROUTES = ("full", "remat", "mixed", "mixed_saved", "nested_remat", "truncated", "tesla")

InnerLoss = Callable[[PyTree, PyTree, PyTree], jax.Array]  # (params, shared, batch) -> scalar


def unroll(
  loss: InnerLoss,
  params: PyTree,
  shared: PyTree,
  batches: PyTree,
  lr: jax.Array,
  *,
  momentum: float = 0.0,
  gradient: str = "mixed",
  window: int | None = None,
) -> PyTree:
  """Trains `params` by SGD for as many steps as `batches` has rows, differentiably.

  Differentiable in `params`, `shared` and `lr`; `batches` (indices, masks, augmentation records) get no gradient.
  Everything that the outer loss shall have a gradient for must come in through these arguments and not through a
  closure of `loss`.

  Args:
    loss: `(params, shared, batch) -> scalar`, the mean loss of one inner step.
    params: pytree of floating arrays, the starting point. One flat vector is the fastest.
    shared: pytree of floating arrays that all steps see, such as synthetic images and label logits.
    batches: pytree of arrays with a leading axis `[steps, ...]`; step `n` sees row `n`.
    lr: scalar inner learning rate.
    momentum: coefficient of the velocity, which starts at zero (PyTorch's convention, no dampening).
    gradient: how the derivative is taken. All but `truncated` and `tesla` give the same numbers up to rounding.

      - `"full"`: reverse mode through everything. Memory: every activation of every step.
      - `"remat"`: each step is recomputed in the backward pass. Memory: `steps` parameter vectors and one step.
      - `"mixed"`: forward-over-reverse adjoint. Memory as `remat` but without the stored inner backward pass, and the
        least work.
      - `"mixed_saved"`: `mixed` that also keeps every inner gradient instead of computing it again. Memory: twice that
        of `mixed`; a little less work.
      - `"nested_remat"`: `mixed` over stretches of about `sqrt(steps)` steps, of which only the starts are kept.
        Memory: about `2 sqrt(steps)` parameter vectors; one more inner training of work.
      - `"truncated"`: the gradient of the last `window` steps with their start held constant. Biased. Memory: `window`
        parameter vectors.
      - `"tesla"`: replaces every `I - lr * H_n` by the identity. Memory independent of the number of steps. **Not the
        gradient of the unrolled loss** except for one step or an inner loss linear in `params`; its error grows with
        `steps * lr * |H|`.

    window: only for `truncated`, and needed there: how many steps the gradient goes back.

  Returns:
    The parameters after the last step, in the structure of `params`.

  Raises:
    ValueError: for an unknown route, zero steps, `batches` of unequal lengths, `truncated` without a window of
      `1..steps`, or `tesla` with momentum (its derivation assumes plain SGD).

  References:
    `mixed`: Kemaev et al., "Scalable Meta-Learning via Mixed-Mode Differentiation" (arXiv 2505.00793). `tesla`: Cui et
    al., "Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory" (arXiv 2211.10586), sec. 4, whose claim
    of exactness holds only in the cases named above.
  """
  lengths = {np.shape(leaf)[0] for leaf in jax.tree.leaves(batches)}
  if len(lengths) != 1:
    raise ValueError(f"unroll: the leading axes of batches must agree, got lengths {sorted(lengths)}")
  if lengths == {0}:
    raise ValueError("unroll: batches has no steps")
  lr = jnp.asarray(lr)
  if gradient in ("full", "remat"):
    step = functools.partial(_step, loss, momentum)
    if gradient == "remat":
      step = jax.checkpoint(step, prevent_cse=False)

    def body(carry, batch):
      return step(carry, shared, lr, batch)[0], None

    (params, _), _ = lax.scan(body, (params, _velocity(params, momentum)), batches)
    return params
  if gradient in ("mixed", "mixed_saved"):
    carry = (params, _velocity(params, momentum))
    return _mixed(loss, momentum, gradient == "mixed_saved", carry, shared, batches, lr)[0]
  if gradient == "nested_remat":
    return _nested(loss, momentum, params, shared, batches, lr)
  if gradient == "truncated":
    return _truncated(loss, momentum, window, params, shared, batches, lr)
  if gradient == "tesla":
    if momentum:
      raise ValueError(f"unroll: gradient='tesla' assumes plain SGD, got momentum={momentum}; use 'mixed'")
    return _tesla(loss, params, shared, batches, lr)
  raise ValueError(f"unroll: unknown gradient route {gradient!r}; choose one of {', '.join(ROUTES)}")


def _axpy(a: jax.Array, x: PyTree, y: PyTree) -> PyTree:
  return jax.tree.map(lambda u, v: a.astype(u.dtype) * u + v, x, y)


def _add(x: PyTree, y: PyTree) -> PyTree:
  return jax.tree.map(jnp.add, x, y)


def _dot(x: PyTree, y: PyTree) -> jax.Array:
  return functools.reduce(
    jnp.add, [jnp.vdot(u, v) for u, v in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True)]
  )


def _zeros(tree: PyTree) -> PyTree:
  return jax.tree.map(jnp.zeros_like, tree)


def _no_gradient(tree: PyTree) -> PyTree:
  """The cotangent of arguments that have none: zeros, of the type that JAX wants for integers and keys."""

  def zero(leaf):
    if jnp.issubdtype(leaf.dtype, jnp.inexact):
      return jnp.zeros_like(leaf)
    return np.zeros(leaf.shape, jax.dtypes.float0)

  return jax.tree.map(zero, tree)


def _velocity(params: PyTree, momentum: float) -> PyTree:
  return _zeros(params) if momentum else None


def _step(loss: InnerLoss, momentum: float, carry: PyTree, shared: PyTree, lr: jax.Array, batch: PyTree):
  """One inner step. Without momentum the carry holds no velocity, so plain SGD pays nothing for the option."""
  params, velocity = carry
  grads = jax.grad(loss)(params, shared, batch)
  if momentum:
    grads = jax.tree.map(lambda v, g: momentum * v + g, velocity, grads)
    velocity = grads
  return (_axpy(-lr, grads, params), velocity), grads


class _Adjoint(NamedTuple):
  """What the reverse recursion carries: cotangents of the carry, of the shared values and of the learning rate."""

  params: PyTree
  velocity: PyTree
  shared: PyTree
  lr: jax.Array


def _walk(loss: InnerLoss, momentum: float, carry: PyTree, shared: PyTree, batches: PyTree, lr: jax.Array, keep: bool):
  """Inner training; gives the last carry, and per step the carry before it with (where kept) its gradient."""

  def body(carry, batch):
    new, grads = _step(loss, momentum, carry, shared, lr, batch)
    return new, (carry, grads if keep else None)

  return lax.scan(body, carry, batches)


def _walk_back(
  loss: InnerLoss, momentum: float, adjoint: _Adjoint, trace: PyTree, shared: PyTree, batches: PyTree, lr: jax.Array
) -> _Adjoint:
  """The reverse recursion over the steps of a trace, one forward-over-reverse derivative each."""
  both = jax.grad(loss, argnums=(0, 1))

  def body(adjoint, row):
    ((params, velocity), kept), batch = row
    lam = adjoint.params
    # cotangent of the step's (velocity-)gradient
    direction = jax.tree.map(lambda u: -lr.astype(u.dtype) * u, lam)
    if momentum:
      direction = _add(adjoint.velocity, direction)
    (grads, _), (curvature, cross) = jax.jvp(lambda p: both(p, shared, batch), (params,), (direction,))
    velocity_adjoint = adjoint.velocity
    if momentum:
      grads = jax.tree.map(lambda v, g: momentum * v + g, velocity, grads)
      velocity_adjoint = jax.tree.map(lambda u: momentum * u, direction)
    moved = grads if kept is None else kept  # a kept one leaves the recomputed one unused, so XLA drops its work
    d_lr = adjoint.lr - _dot(moved, lam).astype(adjoint.lr.dtype)
    return _Adjoint(_add(lam, curvature), velocity_adjoint, _add(adjoint.shared, cross), d_lr), None

  return lax.scan(body, adjoint, (trace, batches), reverse=True)[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _mixed(loss, momentum, keep, carry, shared, batches, lr):
  return _mixed_forward(loss, momentum, keep, carry, shared, batches, lr)[0]


def _mixed_forward(loss, momentum, keep, carry, shared, batches, lr):
  out, trace = _walk(loss, momentum, carry, shared, batches, lr, keep)
  return out, (trace, shared, batches, lr)


def _mixed_backward(loss, momentum, keep, residuals, cotangent):
  del keep
  trace, shared, batches, lr = residuals
  adjoint = _Adjoint(*cotangent, _zeros(shared), jnp.zeros_like(lr))
  adjoint = _walk_back(loss, momentum, adjoint, trace, shared, batches, lr)
  return (adjoint.params, adjoint.velocity), adjoint.shared, _no_gradient(batches), adjoint.lr


_mixed.defvjp(_mixed_forward, _mixed_backward)


def _truncated(loss, momentum, window, params, shared, batches, lr):
  steps = jax.tree.leaves(batches)[0].shape[0]
  if window is None or not 1 <= window <= steps:
    raise ValueError(f"unroll: gradient='truncated' needs a window of 1..{steps} steps, got window={window}")
  early, late = (
    jax.tree.map(lambda leaf, part=part: leaf[part], batches)
    for part in (slice(None, steps - window), slice(steps - window, None))
  )
  carry = (params, _velocity(params, momentum))
  if window < steps:
    held = lax.stop_gradient((carry, shared, lr))
    carry = lax.stop_gradient(_walk(loss, momentum, held[0], held[1], early, held[2], keep=False)[0])
  return _mixed(loss, momentum, False, carry, shared, late, lr)[0]


def _stretches(batches: PyTree) -> tuple[PyTree, PyTree | None]:
  """Cuts the steps into `[stretches, length, ...]` with a length near their square root, and the rest, if any."""
  steps = jax.tree.leaves(batches)[0].shape[0]
  length = max(1, math.isqrt(steps))
  whole = steps // length * length
  head = jax.tree.map(lambda leaf: leaf[:whole].reshape(-1, length, *leaf.shape[1:]), batches)
  return head, jax.tree.map(lambda leaf: leaf[whole:], batches) if whole < steps else None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _nested(loss, momentum, params, shared, batches, lr):
  return _nested_forward(loss, momentum, params, shared, batches, lr)[0]


def _nested_forward(loss, momentum, params, shared, batches, lr):
  head, tail = _stretches(batches)

  def stretch(carry, rows):
    return _walk(loss, momentum, carry, shared, rows, lr, keep=False)[0], carry

  carry, starts = lax.scan(stretch, (params, _velocity(params, momentum)), head)
  out = carry if tail is None else _walk(loss, momentum, carry, shared, tail, lr, keep=False)[0]
  return out[0], (starts, carry, shared, batches, lr)


def _nested_backward(loss, momentum, residuals, cotangent):
  starts, tail_start, shared, batches, lr = residuals
  head, tail = _stretches(batches)

  def stretch(adjoint, row):
    start, rows = row
    trace = _walk(loss, momentum, start, shared, rows, lr, keep=False)[1]
    return _walk_back(loss, momentum, adjoint, trace, shared, rows, lr), None

  adjoint = _Adjoint(cotangent, _velocity(cotangent, momentum), _zeros(shared), jnp.zeros_like(lr))
  if tail is not None:
    adjoint, _ = stretch(adjoint, (tail_start, tail))
  adjoint, _ = lax.scan(stretch, adjoint, (starts, head), reverse=True)
  return adjoint.params, adjoint.shared, _no_gradient(batches), adjoint.lr


_nested.defvjp(_nested_forward, _nested_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _tesla(loss, params, shared, batches, lr):
  return _tesla_forward(loss, params, shared, batches, lr)[0]


def _tesla_forward(loss, params, shared, batches, lr):
  def body(params, batch):
    return _step(loss, 0.0, (params, None), shared, lr, batch)[0][0], None

  return lax.scan(body, params, batches)[0], (params, shared, batches, lr)


def _tesla_backward(loss, residuals, cotangent):
  """The second pass walks the same trajectory again, with one fixed cotangent for every step."""
  params, shared, batches, lr = residuals
  both = jax.grad(loss, argnums=(0, 1))
  direction = jax.tree.map(lambda u: -lr.astype(u.dtype) * u, cotangent)

  def body(carry, batch):
    params, d_shared, d_lr = carry

    def shared_gradient(p):
      grads, cross = both(p, shared, batch)
      return cross, grads

    _, cross, grads = jax.jvp(shared_gradient, (params,), (direction,), has_aux=True)
    d_lr = d_lr - _dot(grads, cotangent).astype(d_lr.dtype)
    return (_axpy(-lr, grads, params), _add(d_shared, cross), d_lr), None

  (_, d_shared, d_lr), _ = lax.scan(body, (params, _zeros(shared), jnp.zeros_like(lr)), batches)
  return cotangent, d_shared, _no_gradient(batches), d_lr


_tesla.defvjp(_tesla_forward, _tesla_backward)


def unroll_trace(
  loss: InnerLoss, params: PyTree, shared: PyTree, batches: PyTree, lr: jax.Array, *, momentum: float = 0.0
) -> tuple[PyTree, Any]:
  """The same inner training with its losses, for looking at it: no gradient route, nothing stored.

  Returns:
    `(params after the last step, losses [steps] before each step)`.
  """
  lr = jnp.asarray(lr)

  def body(carry, batch):
    value = loss(carry[0], shared, batch)
    return _step(loss, momentum, carry, shared, lr, batch)[0], value

  (params, _), losses = lax.scan(body, (params, _velocity(params, momentum)), batches)
  return params, losses
