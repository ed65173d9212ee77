"""An estimator of orders as a value: what it keeps of a reference training, and what it makes of an order."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from jdistill.base import Key, PyTree
from jdistill.orders.projection import projection
from jdistill.orders.reference import Gradient, Reference, Update, reference_nbytes, store_gradients
from jdistill.orders.taylor import Estimate, estimate_order


class OrderEstimator(NamedTuple):
  """What a method that estimates orders is made of; all pure.

  Attributes:
    prepare: `(key, reference, gradient, batches) -> Reference`, with what it keeps beyond parameters and states.
    estimate: `(reference, order [T], gradient, update, batches) -> Estimate`.
    nbytes: `(steps, parameters, state of the optimiser) -> bytes` of what it keeps.
  """

  prepare: Callable[[Key, Reference, Gradient, PyTree], Reference]
  estimate: Callable[[Reference, jax.Array, Gradient, Update, PyTree], Estimate]
  nbytes: Callable[[int, int, PyTree], int]


def estimator(
  *,
  expansion: int = 1,
  moments: str = "propagated",
  hessian: str = "jvp",
  stored: bool = False,
  mixtures: int | None = None,
) -> OrderEstimator:
  """`estimate_order` with these options.

  Args:
    expansion, moments, hessian: of `estimate_order`.
    stored: keep the gradients of all `T^2` pairs, so that an order costs none.
    mixtures: with `stored`, how many mixtures of each position's `T` gradients are kept; `None` for all of them.

  Raises:
    ValueError: stored gradients with exact products, or mixtures of gradients that are not stored.
  """
  if stored and expansion and hessian == "jvp":
    raise ValueError("hessian='jvp': stored gradients cannot be differentiated; choose 'secant', or stored=False")
  if mixtures is not None and not stored:
    raise ValueError(f"mixtures={mixtures}: without stored=True no gradients are kept; set stored=True")

  def prepare(key: Key, reference: Reference, gradient: Gradient, batches: PyTree) -> Reference:
    if not stored:
      return reference
    mixing = None if mixtures is None else projection(key, reference.steps, mixtures, reference.theta.dtype)
    return store_gradients(reference, gradient, batches, mixing)

  def estimate(reference: Reference, order: jax.Array, gradient: Gradient, update: Update, batches: PyTree) -> Estimate:
    return estimate_order(
      reference,
      order,
      update,
      gradient=gradient,
      batches=batches,
      expansion=expansion,
      moments=moments,
      hessian=hessian,
    )

  def nbytes(steps: int, size: int, state: PyTree) -> int:
    return reference_nbytes(steps, size, state, stored=stored, mixtures=mixtures)

  return OrderEstimator(prepare, estimate, nbytes)
