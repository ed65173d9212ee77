"""Sharpness-aware gradients: what smooths the expert trajectories of FTD and DATM."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jdistill.base import PyTree
from jdistill.ops.ascent import global_norm

_TINY = 1e-12


def gsam_gradient(
  value_and_grad: Callable[[PyTree], tuple[PyTree, PyTree]],
  params: PyTree,
  *,
  rho: float,
  alpha: float = 0.0,
  adaptive: bool = True,
) -> tuple[PyTree, PyTree]:
  """The gradient that GSAM hands to its base optimiser.

  With `g0 = grad loss(params)`:

      e  = rho / (|s g0| + 1e-12) * s^2 g0        s = |params| if adaptive (ASAM) else 1
      g1 = grad loss(params + e)
      v  = g0 - <g0, g1> / (|g0| |g1|) * |g0| * g1 / |g1|     the part of g0 orthogonal to g1
      gradient = g1 - alpha * v

  Args:
    value_and_grad: `params -> (loss, gradient)`, of the same batch and augmentation in both evaluations; `loss` may be
      any tree, such as a loss with metrics.
    params: pytree of arrays, or one flat vector.
    rho: radius of the perturbation; norms are over all parameters.
    alpha: weight of the orthogonal part; 0 is SAM (or ASAM).
    adaptive: scale the perturbation by the parameters' magnitude.

  Returns:
    `(what value_and_grad gave as loss at params, gradient)`.

  References:
    Zhuang et al., "Surrogate Gap Minimization Improves Sharpness-Aware Training" (arXiv 2203.08065), alg. 1; Kwon et
    al., "ASAM" (arXiv 2102.11600), eq. 4; used for experts by Du et al. (FTD, arXiv 2211.11004) and DATM
    (arXiv 2310.05773).
  """
  value, g0 = value_and_grad(params)
  scale = jax.tree.map(jnp.abs if adaptive else jnp.ones_like, params)
  norm = global_norm(jax.tree.map(lambda s, g: s * g, scale, g0))
  perturbed = jax.tree.map(lambda p, s, g: p + rho / (norm + _TINY) * jnp.square(s) * g, params, scale, g0)
  _, g1 = value_and_grad(perturbed)
  norm0, norm1 = global_norm(g0), global_norm(g1)
  inner = sum(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), g0, g1)))
  cosine = inner / (norm0 * norm1 + _TINY)
  orthogonal = jax.tree.map(lambda a, b: a - cosine * norm0 * b / (norm1 + _TINY), g0, g1)
  return value, jax.tree.map(lambda b, v: b - alpha * v, g1, orthogonal)
