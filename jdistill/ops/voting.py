"""Weights of the members of a committee, and what they say together."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def committee_weights(prior: jax.Array, *, temperature: float, where: jax.Array | None = None) -> jax.Array:
  """`softmax(prior / temperature)` over the members that vote.

  Args:
    prior: `[M]`, what each member is worth; accuracies in percent in CV-DD.
    temperature: T > 0: 5 where CV-DD recovers images, 10 where it labels them.
    where: `[..., M]` bool, who votes; `None` for all.

  Returns:
    `[..., M]` weights that sum to 1; 0 of those that do not vote.

  Raises:
    ValueError: a temperature that is not positive, a prior that is not a vector or has values that are not finite.

  References:
    Cui et al., "Dataset Distillation via Committee Voting" (arXiv 2501.07575), sec. 3.2.
  """
  if not temperature > 0:
    raise ValueError(f"committee_weights: temperature={temperature}; give a number above 0")
  if jnp.ndim(prior) != 1:
    raise ValueError(f"committee_weights: prior of shape {jnp.shape(prior)}; give one number per member")
  if not isinstance(prior, jax.core.Tracer) and not np.isfinite(prior).all():
    raise ValueError(f"committee_weights: prior={np.asarray(prior).tolist()}; give finite numbers")
  scaled = jnp.asarray(prior) / temperature
  if where is None:
    return jax.nn.softmax(scaled)
  return jax.nn.softmax(jnp.broadcast_to(scaled, where.shape), axis=-1, where=where)


def check_weights(weights: Sequence[float]) -> np.ndarray:
  """`[M]` float32 weights that are not negative and sum to 1.

  Raises:
    ValueError: they are not.
  """
  found = np.asarray(weights, np.float64)
  if found.ndim != 1 or not np.isfinite(found).all() or (found < 0).any() or abs(found.sum() - 1) > 1e-5:
    raise ValueError(
      f"weights={found.tolist()}: must not be negative and must sum to 1; use committee_weights(prior, temperature=...)"
    )
  return found.astype(np.float32)
