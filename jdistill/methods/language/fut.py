"""FUT and FUT++: what other orders of the same batches would have given, from one reference training."""

from typing import Annotated, Literal

from jdistill.orders import OrderEstimator, estimator
from jdistill.schema import Count, Range, validated


@validated("method")
def fut(
  *,
  expansion: Annotated[int, Range(0, 2)] = 1,
  moments: Literal["propagated", "reference"] = "propagated",
  hessian: Literal["jvp", "secant"] = "jvp",
  stored: bool = False,
  mixtures: Count | None = None,
) -> OrderEstimator:
  """Estimates of the parameters that another order of the batches would have given (arXiv 2505.22042).

  Args:
    expansion: of the gradient around the reference: 1 is FUT, 2 FUT++, 0 takes the reference's gradients as they are.
    moments: `"propagated"` carries the optimiser's moments along the new order; `"reference"` takes those of the
      reference training (the paper does not settle which; unverified).
    hessian: `"jvp"`, exact products with second and third derivatives; `"secant"`, the paper's elementwise quotients.
    stored: keep the gradients of all pairs of position and batch: `T^2` gradients once, none per order afterwards.
    mixtures: with `stored`, how many random mixtures over the batches are kept for each position: the paper's
      projection; that it is this axis is inferred from its figures (unverified). `None` keeps all.

  Raises:
    ValueError: options that do not go together.
  """
  return estimator(expansion=expansion, moments=moments, hessian=hessian, stored=stored, mixtures=mixtures)
