"""Weights of domains that follow what a student has yet to learn, and draws of examples with such weights."""

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import Key


def domain_discrepancy(ppl_s: jax.Array, ppl_t: jax.Array, *, cap: float | None = None) -> jax.Array:
  """`r_i = exp(l_S[i] / l_T[i]) / sum_j exp(l_S[j] / l_T[j])`, a softmax of ratios of perplexities (DDK, eq. 1).

  Args:
    ppl_s, ppl_t: `[D]` perplexities of student and teacher, at least 1.
    cap: the most that a ratio counts; no part of the paper, for students that know nothing yet.

  Returns:
    `[D]` weights with sum 1, float32.

  Raises:
    ValueError: shapes that differ, or, of arrays that are no tracers, perplexities that are not finite and positive.

  References:
    Liu et al., "DDK: Distilling Domain Knowledge for Efficient Large Language Models" (arXiv 2407.16154).
  """
  return jax.nn.softmax(_ratios("domain_discrepancy", ppl_s, ppl_t, cap))


def smooth_discrepancy_update(
  r: jax.Array, ppl_s: jax.Array, ppl_t: jax.Array, *, alpha: float, cap: float | None = None
) -> jax.Array:
  """`psi_i = r_i exp(l_S[i] / l_T[i])`, `r'_i = alpha psi_i / sum_j psi_j + (1 - alpha) / D` (DDK, factor smoothing).

  It is computed as `softmax(log r + l_S / l_T)`, since ratios of an untrained student overflow the exponential. Every
  result lies within `(1 - alpha) / D` and `alpha + (1 - alpha) / D`.

  Args:
    r: `[D]` weights before, at least 0 and not all 0.
    ppl_s, ppl_t, cap: see `domain_discrepancy`.
    alpha: from 0, equal weights, to 1, no share that is the same for all.

  Returns:
    `[D]` weights with sum 1, float32.

  Raises:
    ValueError: see `domain_discrepancy`; `alpha` outside of `[0, 1]`; weights of another shape.
  """
  name = "smooth_discrepancy_update"
  ratios = _ratios(name, ppl_s, ppl_t, cap)
  if not isinstance(alpha, jax.core.Tracer) and not 0 <= alpha <= 1:
    raise ValueError(f"{name}: alpha={alpha} must be in [0, 1]")
  if np.shape(r) != ratios.shape:
    raise ValueError(f"{name}: {np.shape(r)} weights for perplexities {ratios.shape}")
  psi = jax.nn.softmax(jnp.log(jnp.asarray(r, jnp.float32)) + ratios)
  return alpha * psi + (1 - alpha) / ratios.shape[0]


def mixture_sampler(
  rng: Key, weights: jax.Array, sizes: jax.Array, n: int, *, start: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
  """Draws domains with given weights, and from each domain one example after the other.

  Example `k` of a domain that was drawn `k` times before is `(start + k) mod size`: all examples of a domain come
  before one comes again. A domain without examples is never drawn.

  Args:
    rng: random key.
    weights: `[D]`, at least 0; their sum does not matter.
    sizes: `[D]` int, examples of each domain.
    n: how many are drawn.
    start: `[D]` int, how many of each domain were drawn before; 0 by default.

  Returns:
    `(domain [n], index [n])`, int32; the index counts within the domain.

  Raises:
    ValueError: shapes that differ, or, of arrays that are no tracers, weights without a domain that has examples.
  """
  weights, sizes = jnp.asarray(weights, jnp.float32), jnp.asarray(sizes, jnp.int32)
  if weights.ndim != 1 or sizes.shape != weights.shape or n < 1:
    raise ValueError(f"mixture_sampler: weights {weights.shape}, sizes {sizes.shape}, n={n}; give [D], [D] and n >= 1")
  there = jnp.where(sizes > 0, weights, 0.0)
  if not isinstance(there, jax.core.Tracer) and not (jnp.all(there >= 0) and jnp.sum(there) > 0):
    raise ValueError("mixture_sampler: no domain has both a positive weight and examples, or a weight is below 0")
  domain = jax.random.categorical(rng, jnp.log(there), shape=(n,)).astype(jnp.int32)
  own = jax.nn.one_hot(domain, weights.shape[0], dtype=jnp.int32)
  before = jnp.sum((jnp.cumsum(own, axis=0) - own) * own, axis=1)
  first = jnp.zeros_like(sizes) if start is None else jnp.asarray(start, jnp.int32)
  return domain, (first[domain] + before) % jnp.maximum(sizes[domain], 1)


def _ratios(name: str, ppl_s: jax.Array, ppl_t: jax.Array, cap: float | None) -> jax.Array:
  if np.ndim(ppl_s) != 1 or np.shape(ppl_s) != np.shape(ppl_t) or not np.size(ppl_s):
    raise ValueError(f"{name}: perplexities {np.shape(ppl_s)} and {np.shape(ppl_t)}; give [D] both")
  for whose, value in (("student", ppl_s), ("teacher", ppl_t)):
    if not isinstance(value, jax.core.Tracer):
      bad = ~(np.isfinite(np.asarray(value, np.float64)) & (np.asarray(value, np.float64) > 0))
      if bad.any():
        place = int(np.argmax(bad))
        raise ValueError(f"{name}: perplexity {np.asarray(value)[place]} of the {whose} in domain {place}")
  ratios = jnp.asarray(ppl_s, jnp.float32) / jnp.asarray(ppl_t, jnp.float32)
  return ratios if cap is None else jnp.minimum(ratios, cap)
