"""ZCA whitening of images, with its inverse.

Distilled images of most trajectory methods live in this whitened space, so a set without its `(mean, whiten)` is
unusable, and without `colour` it cannot be looked at.

Images are flattened in `[height, width, channels]` order: component `(h * W + w) * C + c`. A matrix fitted on
channels-first images holds the same numbers with rows and columns permuted accordingly.
"""

from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import UserError

_CHUNK = 1024  # images per float32 product; partial sums are added in float64


def fit(x: np.ndarray | jax.Array, eps: float = 0.1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Whitening and its inverse from the covariance of the training images, on the host.

  `cov = (x - mean)^T (x - mean) / (n - 1) = U S U^T`, `whiten = U (S + eps I)^(-1/2) U^T`,
  `colour = U (S + eps I)^(1/2) U^T`. Directions that the images do not span (always some when n <= D) have `S = 0` and
  are scaled by `eps^(-1/2)`.

  Args:
    x: `[n, ...]` images in [0, 1], before any other normalisation; at least two.
    eps: added to every eigenvalue, in squared pixel units; above 0.

  Returns:
    `(mean [D], whiten [D, D], colour [D, D])`, float32, with `D` the number of values of one image.

  Raises:
    UserError: `eps` is not above 0, fewer than two images, or values that are not finite.

  References:
    Cazenavette et al., "Dataset Distillation by Matching Training Trajectories", CVPR 2022, arXiv 2203.11932, whose
    experiments whiten with eps = 0.1; the covariance is the unbiased one (n - 1), as there.
  """
  if not (eps > 0 and np.isfinite(eps)):
    raise UserError(f"eps={eps}: must be above 0, or directions without variance blow up; the usual value is 0.1")
  flat = np.asarray(x, np.float32)
  flat = flat.reshape(len(flat), -1)
  if len(flat) < 2:
    raise UserError(f"zca: {len(flat)} images given; a covariance needs at least 2")
  mean = flat.mean(axis=0, dtype=np.float64)
  if not np.isfinite(mean).all():
    raise UserError("zca: the images hold NaN or infinite values; remove or repair them")
  covariance = np.zeros((flat.shape[1], flat.shape[1]))
  for start in range(0, len(flat), _CHUNK):
    centred = (flat[start : start + _CHUNK] - mean).astype(np.float32)
    covariance += centred.T @ centred
  values, vectors = np.linalg.eigh(covariance / (len(flat) - 1))
  root = np.sqrt(np.maximum(values, 0) + eps)  # rounding leaves empty directions slightly below zero
  whiten, colour = (vectors / root) @ vectors.T, (vectors * root) @ vectors.T
  return mean.astype(np.float32), whiten.astype(np.float32), colour.astype(np.float32)


def apply(x: np.ndarray | jax.Array, mean: np.ndarray, whiten: np.ndarray) -> np.ndarray | jax.Array:
  """Whitens images: `(x - mean) @ whiten` on the flattened images.

  NumPy in, NumPy out (on the host); a JAX array or a tracer stays in JAX and is differentiable in `x`. Inside `jit`
  pass the matrix as an argument rather than by closure: a 3072x3072 constant makes compilation slow.

  Args:
    x: `[..., height, width, channels]` pixels in [0, 1], or any array whose trailing axes hold `D` values; batched on
      the first axis.
    mean: `[D]`.
    whiten: `[D, D]`.

  Returns:
    Whitened images of the shape and floating dtype of `x` (integers become float32).

  Raises:
    UserError: an image of `x` does not have `D` values.
  """
  xp, flat, mean, whiten = _prepare(x, mean, whiten)
  return _product(xp, flat - mean, whiten).reshape(x.shape)


def invert(x: np.ndarray | jax.Array, mean: np.ndarray, colour: np.ndarray) -> np.ndarray | jax.Array:
  """Takes whitened images back to pixels: `x @ colour + mean`, not clipped.

  Args:
    x: `[n, ...]` whitened images of `D` values each.
    mean: `[D]`.
    colour: `[D, D]`, the inverse of the whitening matrix.

  Returns:
    Pixels of the shape and floating dtype of `x`, in [0, 1] up to what `x` itself exceeds.

  Raises:
    UserError: an image of `x` does not have `D` values.
  """
  xp, flat, mean, colour = _prepare(x, mean, colour)
  return (_product(xp, flat, colour) + mean).reshape(x.shape)


def _prepare(x: np.ndarray | jax.Array, mean: np.ndarray, matrix: np.ndarray) -> tuple:
  """The namespace of `x`, `x` as `[n, D]`, and mean `[1, D]` and matrix in its dtype."""
  xp: ModuleType = jnp if isinstance(x, jax.Array) else np
  x = xp.asarray(x)
  size = int(np.prod(x.shape[1:]))
  if x.ndim < 2 or size != mean.shape[0]:
    raise UserError(f"zca: images of shape {x.shape[1:]} have {size} values, but it was fitted on {mean.shape[0]}")
  dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else np.float32
  flat = x.reshape(x.shape[0], size).astype(dtype)
  return xp, flat, xp.asarray(mean, dtype).reshape(1, size), xp.asarray(matrix, dtype)


def _product(xp: ModuleType, flat: np.ndarray | jax.Array, matrix: np.ndarray | jax.Array) -> np.ndarray | jax.Array:
  # accelerators multiply float32 in fewer bits by default, which the inverse would amplify
  return jnp.matmul(flat, matrix, precision=jax.lax.Precision.HIGHEST) if xp is jnp else flat @ matrix
