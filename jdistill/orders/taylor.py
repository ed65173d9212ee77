"""Where another order of the same batches would have led: Taylor expansions around a reference training."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import Diverged, PyTree
from jdistill.orders.reference import Gradient, Reference, Update

MOMENTS = ("propagated", "reference")
HESSIANS = ("jvp", "secant")


class Estimate(NamedTuple):
  """What a training in some order would have given.

  Attributes:
    theta: `[P]`, the estimated parameters after the last update.
    distance: `[T]`, how far the estimate was from the reference before every update: what the expansion has to bridge.
    finite: `[T]`, whether the parameters were finite after every update.
  """

  theta: jax.Array
  distance: jax.Array
  finite: jax.Array


def derivatives(function: Callable[[jax.Array], jax.Array], order: int) -> Callable[[jax.Array], tuple[jax.Array, ...]]:
  """`s -> (f(s), f'(s), ..., f^(order)(s))` of a function of a scalar, by nested forward differentiation."""
  if not order:
    return lambda s: (function(s),)
  lower = derivatives(function, order - 1)

  def found(s: jax.Array) -> tuple[jax.Array, ...]:
    values, tangents = jax.jvp(lower, (s,), (jnp.ones_like(s),))
    return (*values, tangents[-1])

  return found


def estimate_order(
  reference: Reference,
  order: jax.Array,
  update: Update,
  *,
  gradient: Gradient | None = None,
  batches: PyTree = None,
  expansion: int = 1,
  moments: str = "propagated",
  hessian: str = "jvp",
) -> Estimate:
  """Parameters after a training in another order, without training (FUT for `expansion=1`, FUT++ for 2).

  With `d = gamma_t - theta_t` and the batch `B` of position `t` in the new order, the gradient at `gamma_t` is

      g(theta_t, B) + H d + (1/2) T[d, d],   H, T: second and third derivatives of the loss on B at theta_t

  as far as `expansion` goes. With `moments="propagated"` the optimiser takes this gradient and carries its own moments
  along the new order. The update is exact then where the loss is quadratic (`expansion=1`) or cubic (2), whatever the
  optimiser. With `moments="reference"` the update `Gamma(theta_t, B)` itself is expanded in `d` and starts from the
  moments of the reference, as the paper writes it; most of the effect of the order is lost.

  Args:
    reference: of `recording`; stored gradients are used where there are any.
    order: `[T]`, the batch of every position.
    update: of the reference, `(gradient, state, theta, position) -> (what is added to theta, state)`.
    gradient: `(theta, batch) -> [P]`; not needed with stored gradients.
    batches: leaves `[T, ...]`; not needed with stored gradients.
    expansion: 0, 1 or 2.
    moments: `"propagated"` or `"reference"`.
    hessian: `"jvp"`, exact products; `"secant"`, the paper's elementwise quotients along the reference,
      `(g(theta_t, B) - g(theta_{t-1}, B)) / (theta_t - theta_{t-1})`, and the same of these for the third derivative. A
      quotient without its predecessors, or of a parameter that did not move, is 0.

  Returns:
    `Estimate`. Its first position that is not finite is told by `require_finite`.

  Raises:
    ValueError: an unknown option, a missing gradient, or products asked of stored gradients.

  References:
    Estimating the Effects of Sample Training Orders for LLMs without Retraining, arXiv 2505.22042. Its full text does
    not settle which moments enter; both readings are here.
  """
  _check(reference, gradient, batches, expansion, moments, hessian)
  slopes = _secants(reference, gradient, batches) if hessian == "secant" else _products(reference, gradient, batches)
  factorials = [math.factorial(k) for k in range(expansion + 1)]

  def series(terms: tuple[jax.Array, ...], s: jax.Array) -> jax.Array:
    return sum(term * (s**k / factorials[k]).astype(term.dtype) for k, term in enumerate(terms))

  def step(carry, where):
    (gamma, state), (position, batch) = carry, where
    theta = reference.theta[position]
    offset = gamma - theta
    terms = slopes(position, batch, offset, expansion)
    if moments == "propagated":
      change, state = update(series(terms, jnp.ones((), gamma.dtype)), state, gamma, position)
    else:
      own = jax.tree.map(lambda leaf: leaf[position], reference.states)

      def along(s: jax.Array) -> jax.Array:
        return update(series(terms, s), own, theta + s * offset, position)[0]

      change = series(derivatives(along, expansion)(jnp.zeros((), gamma.dtype)), jnp.ones((), gamma.dtype))
    gamma = gamma + change
    return (gamma, state), (jnp.linalg.norm(offset), jnp.all(jnp.isfinite(gamma)))

  start = (reference.theta[0], jax.tree.map(lambda leaf: leaf[0], reference.states))
  positions = jnp.arange(reference.steps, dtype=jnp.int32)
  (gamma, _), (distance, finite) = jax.lax.scan(step, start, (positions, order))
  return Estimate(gamma, distance, finite)


def _check(reference, gradient, batches, expansion, moments, hessian) -> None:
  if expansion not in (0, 1, 2):
    raise ValueError(f"estimate_order: expansion={expansion!r}; choose 0, 1 or 2")
  for name, value, known in (("moments", moments, MOMENTS), ("hessian", hessian, HESSIANS)):
    if value not in known:
      raise ValueError(f"estimate_order: {name}={value!r}; choose {' or '.join(known)}")
  if reference.gradients is None and (gradient is None or batches is None):
    raise ValueError("estimate_order: no gradients are stored; give gradient and batches")
  if reference.gradients is not None and expansion and hessian == "jvp":
    raise ValueError(
      "estimate_order: hessian='jvp' needs gradients that can be differentiated; stored ones take 'secant'"
    )


def _products(reference: Reference, gradient: Gradient | None, batches: PyTree):
  """`(position, batch, offset, order) -> (g, H d, T[d, d])`, up to the order."""

  def terms(position, batch, offset, order):
    if reference.gradients is not None:
      return (reference.gradient(position, batch),)
    theta, own = reference.theta[position], jax.tree.map(lambda leaf: leaf[batch], batches)
    zero = jnp.zeros((), offset.dtype)
    return derivatives(lambda s: gradient(theta + s * offset, own), order)(zero)

  return terms


def _secants(reference: Reference, gradient: Gradient | None, batches: PyTree):
  """The same with the diagonals that quotients along the reference give."""

  def look(position, batch):
    if reference.gradients is not None:
      return reference.gradient(position, batch)
    return gradient(reference.theta[position], jax.tree.map(lambda leaf: leaf[batch], batches))

  def quotient(new, old, position, there):
    """`(new - old) / (theta_t - theta_{t-1})`, 0 where it is not there or nothing moved."""
    moved = reference.theta[position] - reference.theta[jnp.maximum(position - 1, 0)]
    safe = jnp.where(moved == 0, jnp.ones_like(moved), moved)
    return jnp.where(there & (moved != 0), (new - old) / safe, jnp.zeros_like(new))

  def terms(position, batch, offset, order):
    before = [jnp.maximum(position - k, 0) for k in range(3)]
    found = [look(before[k], batch) for k in range(order + 1)]
    out = [found[0]]
    if order:
      first = quotient(found[0], found[1], position, position >= 1)
      out.append(first * offset)
    if order == 2:
      earlier = quotient(found[1], found[2], before[1], position >= 2)
      out.append(quotient(first, earlier, position, position >= 2) * offset**2)
    return tuple(out)

  return terms


def require_finite(estimate: Estimate, name: str = "estimate") -> None:
  """Refuses estimates whose expansion diverged; leaves may have a leading axis of orders.

  Raises:
    Diverged: the first position, counted from 0, whose parameters are not finite, and of which order.
  """
  finite = np.asarray(estimate.finite)
  finite = finite.reshape(-1, finite.shape[-1])
  if finite.all():
    return
  order, position = np.argwhere(~finite)[0]
  raise Diverged(
    f"{name}: step {position} of order {order} is not finite: the expansion diverged; lower the learning rate, take "
    "fewer batches, or a lower expansion"
  )
