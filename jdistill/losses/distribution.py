"""Losses that compare class by class what networks make of two sets of images: embeddings, and where they look."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.losses.feature import attention_map
from jdistill.ops.checks import check_at_least, check_rank, keep, known, leading_mask
from jdistill.ops.pairwise import gram, safe_norm, safe_sqrt
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


def attention_matching(
  real: Sequence[jax.Array],
  synthetic: Sequence[jax.Array],
  *,
  power: float = 4.0,
  real_weight: jax.Array | None = None,
  synthetic_weight: jax.Array | None = None,
) -> jax.Array:
  """DataDAM: squared distance of the class means of spatial attention, summed over layers and classes.

      sum_l sum_c || mean_b A_l(real[c, b]) - mean_i A_l(synthetic[c, i]) ||^2

  with `A = v / ||v||_2` and `v_hw = sum_channels |f_hwc|^power` (`attention_map`), so every image's map has norm 1
  before the mean is taken.

  Args:
    real: maps of real images by layer, `[C, b, ..., channels]`, at least one. No gradient.
    synthetic: those of the synthetic images of the same classes, `[C, ipc, ..., channels]`.
    power: of the activations, at least 1.
    real_weight, synthetic_weight: `[C, b]` and `[C, ipc]`, as for `distribution_matching`.

  Returns:
    A scalar: summed over layers, classes and places.

  Raises:
    ValueError: no layer, layers that are not there on both sides, maps without places or of different places.

  Cost: one pass over the maps.

  References:
    Sajedi et al., "DataDAM: Efficient Dataset Distillation with Attention Matching" (arXiv 2310.00093), sec. 3.
  """
  name = "attention_matching"
  if len(real) != len(synthetic) or not len(real):
    raise ValueError(
      f"{name}: {len(real)} real and {len(synthetic)} synthetic layers; give the same ones, at least one"
    )

  def attention(maps: jax.Array, weight: jax.Array | None) -> jax.Array:
    """`[C, n, places]`"""
    if np.ndim(maps) < 4:
      raise ValueError(f"{name}: maps must be [C, n, ..., channels] with places, got {np.shape(maps)}")
    maps = keep(jnp.asarray(maps), leading_mask(name, weight, np.shape(maps)[:2]))
    rows = attention_map(maps.reshape(math.prod(maps.shape[:2]), *maps.shape[2:]), power=power)
    return rows.reshape(*maps.shape[:2], math.prod(maps.shape[2:-1]))

  weights = {"real_weight": real_weight, "synthetic_weight": synthetic_weight}
  return sum(
    distribution_matching(attention(r, real_weight), attention(s, synthetic_weight), **weights)
    for r, s in zip(real, synthetic, strict=True)
  )


def characteristic_function_discrepancy(
  real: jax.Array,
  synthetic: jax.Array,
  frequencies: jax.Array,
  *,
  amplitude_weight: float = 0.5,
  phase_weight: float = 0.5,
  root: bool = True,
  real_weight: jax.Array | None = None,
  synthetic_weight: jax.Array | None = None,
) -> jax.Array:
  """NCFM: distance of the characteristic functions of real and synthetic embeddings, summed over classes.

  With `Phi_c(t) = mean_b exp(i <t, real[c, b]>)`, `Psi_c` the same of the synthetic embeddings, and `a` and `p` the two
  weights,

      sum_c mean_k sqrt(a (|Phi_c| - |Psi_c|)^2 + p 2 |Phi_c| |Psi_c| (1 - cos(arg Phi_c - arg Psi_c)))   at t_k

  Both parts together are `|Phi_c - Psi_c|^2`, so equal weights `a = p` give `sqrt(a) |Phi_c - Psi_c|`.

  Args:
    real: `[C, b, F]` embeddings of real images by class. No gradient.
    synthetic: `[C, ipc, F]` embeddings of the synthetic images of the same classes.
    frequencies: `[K, F]`, `t_k`, the same for all classes. They have a gradient, for samplers that maximise.
    amplitude_weight, phase_weight: `a` and `p`, at least 0; `alpha` and `1 - alpha` in the paper, two numbers in the
      released code.
    root: without it the square root is left out: the mean of squared distances.
    real_weight: `[C, b]` weights of the means, at least 0; zero marks padding, whose embedding may be anything, NaN
      too. `None` weighs all alike.
    synthetic_weight: `[C, ipc]`, the same for the other side.

  Returns:
    A scalar: summed over classes, the mean over frequencies. A class where one side has no weight adds nothing. Where
    the two functions agree at a frequency, its gradient is zero. (The released code puts the phase's part at 1e-12 at
    least.)

  Raises:
    ValueError: embeddings that are not `[C, n, F]` with the same `C` and `F`, frequencies that are not `[K, F]` with
      one at least, weights of another shape, or a negative `a` or `p`.

  Cost: `C (b + ipc) K (F + 2)` multiplications and `2 C (b + ipc) K` numbers kept for the backward pass.

  References:
    Wang et al., "Dataset Distillation with Neural Characteristic Function: A Minmax Perspective" (arXiv 2502.20653),
    the discrepancy NCFD.
  """
  name = "characteristic_function_discrepancy"
  check_rank(name, "real", real, 3)
  check_rank(name, "synthetic", synthetic, 3)
  check_rank(name, "frequencies", frequencies, 2)
  check_at_least(name, 0, amplitude_weight=amplitude_weight, phase_weight=phase_weight)
  real, synthetic, frequencies = widen(real), widen(synthetic), widen(frequencies)
  if (real.shape[0], real.shape[2]) != (synthetic.shape[0], synthetic.shape[2]):
    raise ValueError(f"{name}: real {real.shape} and synthetic {synthetic.shape} differ in classes or features")
  if frequencies.shape[1] != real.shape[2] or not frequencies.shape[0]:
    raise ValueError(f"{name}: frequencies {frequencies.shape} do not fit {real.shape[2]} features; give [K, features]")
  phi, real_some = _characteristic(name, jax.lax.stop_gradient(real), real_weight, frequencies)
  psi, synthetic_some = _characteristic(name, synthetic, synthetic_weight, frequencies)
  apart = phi - psi
  # |Phi| - |Psi| by the difference of squares: digits of near functions would cancel in the difference of norms
  sums, norms = phi + psi, safe_norm(phi) + safe_norm(psi)
  amplitude = jnp.square(jnp.sum(apart * sums, axis=-1) / jnp.where(norms > 0, norms, 1))
  whole = jnp.sum(jnp.square(apart), axis=-1)
  if known(amplitude_weight) and known(phase_weight) and amplitude_weight == phase_weight:
    squared = amplitude_weight * whole
  else:
    squared = amplitude_weight * amplitude + phase_weight * jnp.maximum(whole - amplitude, 0)
  distance = jnp.mean(safe_sqrt(squared) if root else squared, axis=-1)
  return jnp.sum(jnp.where(real_some & synthetic_some, distance, 0))


def _characteristic(
  name: str, x: jax.Array, weight: jax.Array | None, frequencies: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Real and imaginary part `[C, K, 2]` of the weighted characteristic function, and which classes have any weight."""
  if weight is not None and np.shape(weight) == x.shape[:2]:
    x = keep(x, jnp.asarray(weight).astype(bool))  # a sine of NaN would spoil the gradient
  angle = gram(x, jnp.broadcast_to(frequencies, (x.shape[0], *frequencies.shape)))
  parts, some = _means(name, jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1), weight)
  return jnp.stack(jnp.split(parts, 2, axis=-1), axis=-1), some


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
