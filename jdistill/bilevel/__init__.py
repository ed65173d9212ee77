"""Gradients through inner optimisation."""

from jdistill.bilevel.hypergradient import one_step_hypergradient
from jdistill.bilevel.implicit import (
  ImplicitGradient,
  adam_descent,
  adam_solve,
  conjugate_gradients,
  hessian_product,
  implicit_gradient,
  linearise,
)
from jdistill.bilevel.unroll import PLAIN_SGD_ROUTES, ROUTES, UNMARKED_ROUTES, unroll, unroll_trace

__all__ = [
  "PLAIN_SGD_ROUTES",
  "ROUTES",
  "UNMARKED_ROUTES",
  "ImplicitGradient",
  "adam_descent",
  "adam_solve",
  "conjugate_gradients",
  "hessian_product",
  "implicit_gradient",
  "linearise",
  "one_step_hypergradient",
  "unroll",
  "unroll_trace",
]
