"""Losses that compare the gradients which two sets of images give a network."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import PyTree
from jdistill.ops.checks import check_positive
from jdistill.ops.pairwise import safe_norm
from jdistill.ops.precision import widen

Distance = Literal["layerwise_cosine", "mse", "cosine"]


def gradient_matching(
  synthetic: PyTree, real: PyTree, *, distance: Distance = "layerwise_cosine", eps: float = 1e-6
) -> jax.Array:
  """DC: how far the gradient of a network on synthetic images is from that on real ones.

  With `s` and `r` the two gradients, the distances are

      layerwise_cosine   sum over leaves and output units of 1 - <s_row, r_row> / (|s_row| |r_row| + eps)
      mse                |s - r|^2, over all parameters together
      cosine             1 - <s, r> / (|s| |r| + eps), over all parameters together

  A row holds the weights into one output unit, so it is a slice along all axes but the last: kernels are
  `[height, width, in, out]` and `[in, out]`, scales of layer norm `[height, width, channels]`. Leaves of one axis
  (biases, scales of other norms) add nothing to `layerwise_cosine`; the other two count them. A row of zeros, as a unit
  that is never active has, is at distance 1 from any other and has no gradient.

  Args:
    synthetic: gradient on synthetic images, a pytree in the structure of the parameters.
    real: gradient on real images. No gradient flows to it.
    distance: which.
    eps: added to the product of norms.

  Returns:
    A scalar in float32 (float64 for float64), summed over layers.

  Raises:
    ValueError: trees of different structure or shapes, an unknown distance, `eps` that is not positive, or no leaf of
      two axes for `layerwise_cosine`.

  Cost: one pass over the parameters.

  References:
    Zhao, Mopuri and Bilen, "Dataset Condensation with Gradient Matching" (arXiv 2006.05929), sec. 3.3. Their release
    has outputs on the first axis; the rows are the same.
  """
  name = "gradient_matching"
  if distance not in get_args(Distance):
    raise ValueError(f"{name}: distance must be one of {', '.join(get_args(Distance))}, got {distance!r}")
  check_positive(name, eps=eps)
  shapes = [jax.tree.map(np.shape, tree) for tree in (synthetic, real)]
  if shapes[0] != shapes[1]:
    raise ValueError(f"{name}: gradients on synthetic and real images differ in shape: {shapes}")
  pairs = [
    (widen(s), jax.lax.stop_gradient(widen(r)))
    for s, r in zip(jax.tree.leaves(synthetic), jax.tree.leaves(real), strict=True)
  ]
  if distance == "layerwise_cosine":
    layers = [pair for pair in pairs if pair[0].ndim > 1]
    if not layers:
      raise ValueError(f"{name}: no leaf has two axes, so layerwise_cosine has nothing to compare; take 'mse'")
    return sum(jnp.sum(_cosine_distance(*(x.reshape(-1, x.shape[-1]) for x in pair), eps)) for pair in layers)
  if distance == "mse":
    return sum(jnp.sum(jnp.square(s - r)) for s, r in pairs)
  whole = [jnp.concatenate([x.reshape(-1) for x in side])[:, None] for side in zip(*pairs, strict=True)]
  return jnp.sum(_cosine_distance(*whole, eps))


def _cosine_distance(s: jax.Array, r: jax.Array, eps: float) -> jax.Array:
  """`1 - cosine` of the columns `[n, out] -> [out]`."""
  return 1 - jnp.sum(s * r, axis=0) / (safe_norm(s, 0) * safe_norm(r, 0) + eps)
