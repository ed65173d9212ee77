"""Gradients through inner optimisation."""

from jdistill.bilevel.unroll import ROUTES, unroll, unroll_trace

__all__ = ["ROUTES", "unroll", "unroll_trace"]
