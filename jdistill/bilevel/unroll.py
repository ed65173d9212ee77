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

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jdistill.base import PyTree
from jdistill.bilevel import adjoint
from jdistill.bilevel import inner as inner_lib
from jdistill.bilevel.inner import Batch, Carry, Inner, InnerLoss
from jdistill.bilevel.tesla import tesla

ROUTES = ("full", "remat", "mixed", "mixed_saved", "nested_remat", "truncated", "tesla")
PLAIN_SGD_ROUTES = ("tesla",)  # which know no momentum
UNMARKED_ROUTES = ("truncated",)  # which give no points on the way


def unroll(
  loss: InnerLoss,
  params: PyTree,
  shared: PyTree,
  batches: PyTree,
  lr: jax.Array,
  *,
  indices: jax.Array | None = None,
  momentum: float = 0.0,
  marks: Sequence[int] = (),
  gradient: str = "mixed",
  window: int | None = None,
  chunk_size: int | None = None,
  axis_name: str | None = None,
) -> PyTree | tuple[PyTree, ...]:
  """Trains `params` by SGD for as many steps as `batches` has rows, differentiably.

  Differentiable in `params`, `shared` and `lr`; `batches` (masks, weights, augmentation records) get no gradient.
  Everything that the outer loss shall have a gradient for must come in through these arguments and not through a
  closure of `loss`.

  Where the loss of a step is a sum over the rows of its batch (a mean is one whose weights are part of the batch), the
  rows need not be together: `chunk_size` takes a few at a time, so that the activations of one step shrink to those of
  a chunk and stay in the processor's cache, and `axis_name` spreads them over devices. Networks with batch norm couple
  the rows and can do neither.

  Args:
    loss: `(params, shared, batch) -> scalar`, the loss of one inner step. With `indices` it gets the picked rows of
      `shared` instead of all.
    params: pytree of floating arrays, the starting point. One flat vector is the fastest.
    shared: pytree of floating arrays that all steps see, such as synthetic images and label logits.
    batches: pytree of arrays with a leading axis `[steps, ...]`; step `n` sees row `n`. Arrays with a second axis have
      one entry per row of the step there, where `chunk_size` or `axis_name` is used; `[steps]` belongs to all its rows.
    lr: scalar inner learning rate.
    indices: `[steps, rows]` integers: all of `shared` is `[examples, ...]`, and step `n` sees `shared[indices[n]]`.
      Gradients are added up where they belong, in place, which picking them inside `loss` does not do.
    momentum: coefficient of the velocity, which starts at zero (PyTorch's convention, no dampening).
    marks: numbers of steps, rising, after which the parameters are wanted as well. Each stretch between two of them is
      a loop of its own in the compiled program.
    gradient: how the derivative is taken. All but `truncated` and `tesla` give the same numbers up to rounding.

      - `"full"`: reverse mode through everything. Memory: every activation of every step.
      - `"remat"`: each step is recomputed in the backward pass. Memory: `steps` parameter vectors and one step.
      - `"mixed"`: forward-over-reverse adjoint. Memory as `remat` but without the stored inner backward pass, and the
        least work.
      - `"mixed_saved"`: `mixed` that also keeps every inner gradient for the derivative in `lr`, which `mixed` reads
        off the slope of the loss. Memory: twice that of `mixed`.
      - `"nested_remat"`: `mixed` over stretches of about `sqrt(steps)` steps, of which only the starts are kept.
        Memory: about `2 sqrt(steps)` parameter vectors; one more inner training of work.
      - `"truncated"`: the gradient of the last `window` steps with their start held constant. Biased. Memory: `window`
        parameter vectors.
      - `"tesla"`: replaces every `I - lr * H_n` by the identity. Memory independent of the number of steps. **Not the
        gradient of the unrolled loss** except for one step or an inner loss linear in `params`; its error grows with
        `steps * lr * |H|`.

    window: only for `truncated`, and needed there: how many steps the gradient goes back.
    chunk_size: rows of a step looked at together, a divisor of their number; `None` for all.
    axis_name: inside `shard_map` or `pmap`, the mesh axis over which rows are spread: every device has called with its
      own rows of `batches` and `indices`, and the same `params`, `shared` and `lr`. One sum over devices of the size of
      `params` is made per step and direction, and one of the size of `shared` at the end; results and gradients are
      the same on all devices. Not for `full` and `remat`, whose derivative JAX would take through the sums.

  Returns:
    The parameters after the last step, in the structure of `params`; with `marks` a tuple of those after each of these
    numbers of steps and after the last.

  Raises:
    ValueError: for an unknown route, zero steps, `batches` of unequal lengths, `marks` that do not rise within
      `1..steps-1`, a `chunk_size` that does not divide the rows, `truncated` with `marks` or without a window of
      `1..steps`, `tesla` with momentum (its derivation assumes plain SGD), or `full` and `remat` with `axis_name`.

  References:
    `mixed`: Kemaev et al., "Scalable Meta-Learning via Mixed-Mode Differentiation" (arXiv 2505.00793). `tesla`: Cui et
    al., "Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory" (arXiv 2211.10586), sec. 4, whose claim
    of exactness holds only in the cases named above.
  """
  lengths = {np.shape(leaf)[0] for leaf in jax.tree.leaves((batches, indices))}
  if len(lengths) != 1:
    raise ValueError(f"unroll: the leading axes of batches must agree, got lengths {sorted(lengths)}")
  if lengths == {0}:
    raise ValueError("unroll: batches has no steps")
  steps, ends = lengths.pop(), tuple(marks)
  if list(ends) != sorted({*ends} & {*range(1, steps)}):
    raise ValueError(f"unroll: marks={ends} must rise within 1..{steps - 1}")
  if ends and gradient == "truncated":
    raise ValueError(f"unroll: gradient='truncated' has no points on the way, got marks={ends}; use 'mixed'")
  lr, rows = jnp.asarray(lr), Batch(indices, batches)
  walk = _walk(Inner(loss, momentum, chunk_size, axis_name), gradient, window, shared, lr)
  carry, found = inner_lib.begin(params, momentum), []
  for begin, end in itertools.pairwise((0, *ends, steps)):
    carry = walk(carry, rows if not ends else jax.tree.map(lambda leaf, a=begin, b=end: leaf[a:b], rows))
    found.append(carry.params)
  return tuple(found) if ends else found[0]


def _walk(
  inner: Inner, gradient: str, window: int | None, shared: PyTree, lr: jax.Array
) -> Callable[[Carry, Batch], Carry]:
  """`(carry, rows of some steps) -> carry` by a gradient route."""
  if gradient in ("full", "remat"):
    return lambda carry, rows: _reverse(inner, gradient == "remat", carry, shared, rows, lr)
  if gradient in ("mixed", "mixed_saved"):
    return lambda carry, rows: adjoint.mixed(inner, gradient == "mixed_saved", carry, shared, rows, lr)
  if gradient == "nested_remat":
    return lambda carry, rows: adjoint.nested(inner, carry, shared, rows, lr)
  if gradient == "truncated":
    return lambda carry, rows: adjoint.truncated(inner, window, carry, shared, rows, lr)
  if gradient == "tesla":
    if inner.momentum:
      raise ValueError(f"unroll: gradient='tesla' assumes plain SGD, got momentum={inner.momentum}; use 'mixed'")
    return lambda carry, rows: Carry(tesla(inner, carry.params, shared, rows, lr), None)
  raise ValueError(f"unroll: unknown gradient route {gradient!r}; choose one of {', '.join(ROUTES)}")


def _reverse(inner: Inner, remat: bool, carry: Carry, shared: PyTree, batches: Batch, lr: jax.Array) -> Carry:
  """JAX's own reverse mode through the loop."""
  if inner.axis_name is not None:
    route = "remat" if remat else "full"
    raise ValueError(f"unroll: gradient={route!r} cannot spread rows over axis_name={inner.axis_name!r}; use 'mixed'")

  def step(carry, shared, lr, batch):
    return inner_lib.step(inner, carry, shared, lr, batch)[0]

  if remat:
    step = jax.checkpoint(step, prevent_cse=False)

  def body(carry, batch):
    return step(carry, shared, lr, batch), None

  return lax.scan(body, carry, batches)[0]


def unroll_trace(
  loss: InnerLoss,
  params: PyTree,
  shared: PyTree,
  batches: PyTree,
  lr: jax.Array,
  *,
  indices: jax.Array | None = None,
  momentum: float = 0.0,
) -> tuple[PyTree, Any]:
  """The same inner training with its losses, for looking at it: no gradient route, nothing stored.

  Returns:
    `(params after the last step, losses [steps] before each step)`.
  """
  lr, inner = jnp.asarray(lr), Inner(loss, momentum)

  def body(carry, batch):
    value = inner_lib.value(inner, carry.params, shared, batch)
    return inner_lib.step(inner, carry, shared, lr, batch)[0], value

  carry, losses = lax.scan(body, inner_lib.begin(params, momentum), Batch(indices, batches))
  return carry.params, losses
