"""Losses that compare the embeddings of two sets of images class by class."""

import jax
import jax.numpy as jnp

from jdistill.ops.checks import check_rank
from jdistill.ops.precision import widen


def distribution_matching(
  real: jax.Array,
  synthetic: jax.Array,
  *,
  real_weight: jax.Array | None = None,
  synthetic_weight: jax.Array | None = None,
) -> jax.Array:
  """DM: squared distance of the class means of real and synthetic embeddings, summed over classes.

      sum_c || mean_b real[c, b] - mean_i synthetic[c, i] ||^2

  Args:
    real: `[C, b, F]` embeddings of real images by class. No gradient.
    synthetic: `[C, ipc, F]` embeddings of the synthetic images of the same classes.
    real_weight: `[C, b]` weights of the means, at least 0; zero marks padding, whose embedding may be anything, NaN
      too. `None` weighs all alike.
    synthetic_weight: `[C, ipc]`, the same for the other side.

  Returns:
    A scalar: summed over classes and features. A class where one side has no weight adds nothing.

  Raises:
    ValueError: embeddings that are not `[C, n, F]` with the same `C` and `F`, or weights of another shape.

  Cost: one pass over the embeddings.

  References:
    Zhao and Bilen, "Dataset Condensation with Distribution Matching" (arXiv 2110.04181), eq. 5.
  """
  name = "distribution_matching"
  check_rank(name, "real", real, 3)
  check_rank(name, "synthetic", synthetic, 3)
  real, synthetic = widen(real), widen(synthetic)
  if (real.shape[0], real.shape[2]) != (synthetic.shape[0], synthetic.shape[2]):
    raise ValueError(f"{name}: real {real.shape} and synthetic {synthetic.shape} differ in classes or features")
  real_mean, real_some = _means(name, jax.lax.stop_gradient(real), real_weight)
  synthetic_mean, synthetic_some = _means(name, synthetic, synthetic_weight)
  distance = jnp.sum(jnp.square(real_mean - synthetic_mean), axis=-1)
  return jnp.sum(jnp.where(real_some & synthetic_some, distance, 0))


def _means(name: str, x: jax.Array, weight: jax.Array | None) -> tuple[jax.Array, jax.Array]:
  """Weighted means `[C, F]`, and which classes have any weight `[C]`."""
  if weight is None:
    some = jnp.full(x.shape[0], x.shape[1] > 0)
    return (jnp.mean(x, axis=1) if x.shape[1] else jnp.sum(x, axis=1)), some
  weight = jnp.asarray(weight)
  if weight.shape != x.shape[:2]:
    raise ValueError(f"{name}: weights {weight.shape} do not fit embeddings {x.shape}")
  weight = weight.astype(x.dtype)
  total = jnp.sum(weight, axis=1)
  share = weight / jnp.where(total > 0, total, 1)[:, None]
  kept = jnp.where((weight > 0)[..., None], x, 0)
  return jnp.sum(share[..., None] * kept, axis=1), total > 0
