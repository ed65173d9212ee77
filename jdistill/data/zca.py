"""ZCA whitening of images, with its inverse.

Distilled images of most trajectory methods live in this whitened space, so a set without its whitening is unusable.

Images are flattened in `[height, width, channels]` order: component `(h * W + w) * C + c`. Vectors fitted on
channels-first images hold the same numbers with rows permuted accordingly.

Whitening and its inverse are kept as the eigenvectors `U [D, k]` of the covariance with a factor for each of them, and
one for all directions orthogonal to them. That is exact, and of `n <= D` images it takes `D * n` numbers and
`O(D n^2)` work, where the two matrices would take `2 D^2` and `O(D^3)`: 57 MB in place of 1.2 GB for 1,152 images of
64x64x3.
"""

from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import UserError

EPS = 0.1
_CHUNK = 1024  # images, or values of all images, that are copied at one time
_RANK = 1e-10  # eigenvalues below this share of the largest are rounding


def fit(x: np.ndarray | jax.Array, eps: float = EPS) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Whitening and its inverse from the covariance of the training images, on the host.

  `cov = (x - mean)^T (x - mean) / (n - 1) = U S U^T`; whitening multiplies the component along column `i` of `U` by
  `(S_i + eps)^(-1/2)`, and what is orthogonal to all of them, which is where `S = 0`, by `eps^(-1/2)`. Of `n <= D`
  images `U` comes from the eigenvectors of the `n x n` Gram matrix, in float64.

  Args:
    x: `[n, ...]` images in [0, 1], before any other normalisation; at least two.
    eps: added to every eigenvalue, in squared pixel units; above 0.

  Returns:
    `(mean [D], scale [k + 1], inverse [k + 1], vectors [D, k])`, float32, with `D` the number of values of one image
    and `k <= min(n - 1, D)` the rank of the covariance. `scale` are the factors of whitening, the last one of the
    orthogonal rest, and `inverse = 1 / scale`.

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
  values, vectors = (_of_gram if len(flat) <= flat.shape[1] else _of_covariance)(flat, mean)
  deviation = np.sqrt(np.append(values, 0) + eps)
  return tuple(part.astype(np.float32) for part in (mean, 1 / deviation, deviation, vectors))


def _of_covariance(flat: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Eigenvalues and eigenvectors of the `D x D` covariance."""
  covariance = np.zeros((flat.shape[1], flat.shape[1]))
  for start in range(0, len(flat), _CHUNK):
    centred = (flat[start : start + _CHUNK] - mean).astype(np.float32)
    covariance += centred.T @ centred  # partial sums are added in float64
  values, vectors = np.linalg.eigh(covariance / (len(flat) - 1))
  return np.maximum(values, 0), vectors  # rounding leaves empty directions slightly below zero


def _of_gram(flat: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The same from the `n x n` products of the images: `cov = C^T C / (n - 1)` and `C C^T = V s V^T` give `U = C^T V`.

  In float64: dividing by the root of a small eigenvalue amplifies what rounding left of the large ones.
  """
  count, size = flat.shape
  gram = np.zeros((count, count))
  for start in range(0, size, _CHUNK):
    centred = flat[:, start : start + _CHUNK] - mean[start : start + _CHUNK]
    gram += centred @ centred.T
  values, weights = np.linalg.eigh(gram)
  kept = values > _RANK * values[-1]
  values, weights = values[kept], weights[:, kept]
  weights /= np.sqrt(values)
  vectors = np.empty((size, len(values)), np.float32)
  for start in range(0, size, _CHUNK):
    centred = flat[:, start : start + _CHUNK] - mean[start : start + _CHUNK]
    vectors[start : start + _CHUNK] = centred.T @ weights
  return values / (count - 1), vectors


def fitting_bytes(count: int, size: int) -> int:
  """About the most memory that `fit` holds beside the images, for `count` images of `size` values."""
  rank = min(count, size)
  return 24 * rank**2 + 4 * size * rank + 8 * _CHUNK * rank


def fitting_flops(count: int, size: int) -> float:
  """About the work of `fit` in float32 operations: products of images, and the eigenvectors of the smaller matrix."""
  rank = min(count, size)
  products = 4 if count <= size else 1  # twice, and in float64
  return 2.0 * products * count * size * rank + 18.0 * rank**3


def apply(
  x: np.ndarray | jax.Array, mean: np.ndarray, scale: np.ndarray, vectors: np.ndarray
) -> np.ndarray | jax.Array:
  """Whitens images: with `c = x - mean` flattened and `r` the last factor, `r c + ((c U) * (scale - r)) U^T`.

  NumPy in, NumPy out (on the host); a JAX array or a tracer stays in JAX and is differentiable in `x`. Inside `jit`
  pass the vectors as an argument rather than by closure: a 3072x3072 constant makes compilation slow.

  Args:
    x: `[..., height, width, channels]` pixels in [0, 1], or any array whose trailing axes hold `D` values; batched on
      the first axis.
    mean: `[D]`.
    scale: `[k + 1]`, factors of the directions and of the rest.
    vectors: `[D, k]`, orthonormal columns `U`.

  Returns:
    Whitened images of the shape and floating dtype of `x` (integers become float32).

  Raises:
    UserError: an image of `x` does not have `D` values.
  """
  xp, flat, mean = _prepare(x, mean)
  return _rescale(xp, flat - mean, scale, vectors).reshape(x.shape)


def invert(
  x: np.ndarray | jax.Array, mean: np.ndarray, inverse: np.ndarray, vectors: np.ndarray
) -> np.ndarray | jax.Array:
  """Takes whitened images back to pixels, not clipped: the product of `apply` with the factors `inverse`, plus mean.

  Args:
    x: `[n, ...]` whitened images of `D` values each.
    mean: `[D]`.
    inverse: `[k + 1]`, the reciprocals of `scale`.
    vectors: `[D, k]`.

  Returns:
    Pixels of the shape and floating dtype of `x`, in [0, 1] up to what `x` itself exceeds.

  Raises:
    UserError: an image of `x` does not have `D` values.
  """
  xp, flat, mean = _prepare(x, mean)
  return (_rescale(xp, flat, inverse, vectors) + mean).reshape(x.shape)


def _prepare(x: np.ndarray | jax.Array, mean: np.ndarray) -> tuple:
  """The namespace of `x`, `x` as `[n, D]`, and the mean `[1, D]` in its dtype."""
  xp: ModuleType = jnp if isinstance(x, jax.Array) else np
  x = xp.asarray(x)
  size = int(np.prod(x.shape[1:]))
  if x.ndim < 2 or size != mean.shape[0]:
    raise UserError(f"zca: images of shape {x.shape[1:]} have {size} values, but it was fitted on {mean.shape[0]}")
  dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else np.float32
  return xp, x.reshape(x.shape[0], size).astype(dtype), xp.asarray(mean, dtype).reshape(1, size)


def _rescale(xp: ModuleType, flat, factors: np.ndarray, vectors: np.ndarray):
  factors, vectors = xp.asarray(factors, flat.dtype).reshape(1, -1), xp.asarray(vectors, flat.dtype)
  along = _product(xp, flat, vectors) * (factors[:, :-1] - factors[:, -1:])
  return flat * factors[:, -1:] + _product(xp, along, vectors.T)


def _product(xp: ModuleType, flat: np.ndarray | jax.Array, matrix: np.ndarray | jax.Array) -> np.ndarray | jax.Array:
  # accelerators multiply float32 in fewer bits by default, which the inverse would amplify
  return jnp.matmul(flat, matrix, precision=jax.lax.Precision.HIGHEST) if xp is jnp else flat @ matrix
