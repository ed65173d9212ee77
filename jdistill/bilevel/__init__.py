"""Gradients through inner optimisation."""

from jdistill.bilevel.hypergradient import one_step_hypergradient
from jdistill.bilevel.unroll import ROUTES, unroll, unroll_trace

__all__ = ["ROUTES", "one_step_hypergradient", "unroll", "unroll_trace"]
