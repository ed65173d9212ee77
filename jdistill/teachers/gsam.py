"""Sharpness-aware gradients: what smooths the expert trajectories of FTD and DATM."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jdistill.base import PyTree

_TINY = 1e-12


def _global_norm(tree: PyTree) -> jax.Array:
  return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)))


def gsam_gradient(
  loss: Callable,
  params: PyTree,
  *,
  rho: float,
  alpha: float = 0.0,
  adaptive: bool = True,
  value_and_grad: Callable = jax.value_and_grad,
) -> tuple[jax.Array, PyTree]:
  """The gradient that GSAM hands to its base optimiser.

  With `g0 = grad loss(params)`:

      e  = rho / (|s g0| + 1e-12) * s^2 g0        s = |params| if adaptive (ASAM) else 1
      g1 = grad loss(params + e)
      v  = g0 - <g0, g1> / (|g0| |g1|) * |g0| * g1 / |g1|     the part of g0 orthogonal to g1
      gradient = g1 - alpha * v

  Args:
    loss: `params -> scalar`, the same batch and augmentation in both evaluations.
    params: pytree of arrays, or one flat vector.
    rho: radius of the perturbation; norms are over all parameters.
    alpha: weight of the orthogonal part; 0 is SAM (or ASAM).
    adaptive: scale the perturbation by the parameters' magnitude.
    value_and_grad: what makes `params -> (loss, gradient)` of `loss`; another one can go over the batch in chunks.

  Returns:
    `(loss at params, gradient)`.

  References:
    Zhuang et al., "Surrogate Gap Minimization Improves Sharpness-Aware Training" (arXiv 2203.08065), alg. 1; Kwon et
    al., "ASAM" (arXiv 2102.11600), eq. 4; used for experts by Du et al. (FTD, arXiv 2211.11004) and DATM
    (arXiv 2310.05773).
  """
  both = value_and_grad(loss)
  value, g0 = both(params)
  scale = jax.tree.map(jnp.abs if adaptive else jnp.ones_like, params)
  norm = _global_norm(jax.tree.map(lambda s, g: s * g, scale, g0))
  perturbed = jax.tree.map(lambda p, s, g: p + rho / (norm + _TINY) * jnp.square(s) * g, params, scale, g0)
  _, g1 = both(perturbed)
  norm0, norm1 = _global_norm(g0), _global_norm(g1)
  inner = sum(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), g0, g1)))
  cosine = inner / (norm0 * norm1 + _TINY)
  orthogonal = jax.tree.map(lambda a, b: a - cosine * norm0 * b / (norm1 + _TINY), g0, g1)
  return value, jax.tree.map(lambda b, v: b - alpha * v, g1, orthogonal)
