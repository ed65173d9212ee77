"""Kernels between images: linear, Gaussian, and those of infinitely wide ReLU networks in closed form."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.ops.checks import check_rank
from jdistill.ops.pairwise import gram, pairwise_sq_dists, safe_sqrt, unit
from jdistill.ops.precision import widen

# arcsin(sqrt(z)) / sqrt(z) for z in [0, 1/2] to 4e-10, by interpolation at Chebyshev's nodes; highest power first
_ARC_SINE = np.float32([
  0.1431510603, -0.1955462703, 0.1608317803, -0.0410680867, 0.0362081755,
  0.0284338015, 0.0447978686, 0.0749938129, 0.1666667615, 0.9999999998,
])  # fmt: skip
_NEAR = 1e-3  # an error of 1e-7 in a greater versine is one of 2e-6 in the angle


def linear_kernel(x: jax.Array, z: jax.Array) -> jax.Array:
  """`k(x, z) = <x, z> / features`.

  Args:
    x: `[n, features]`.
    z: `[m, features]`.

  Returns:
    `[n, m]`, float32 (float64 for float64).

  Raises:
    ValueError: if an argument is not a matrix or the widths differ.
  """
  x, z = _check("linear_kernel", x, z)
  return gram(x, z) / x.shape[1]


def append_bias(features: jax.Array) -> jax.Array:
  """Features `[n, D]` with a column of ones, `[n, D + 1]`: products of such rows are the kernel of a regression whose
  constant is penalised like its weights."""
  check_rank("append_bias", "features", features, 2)
  return jnp.concatenate([features, jnp.ones((features.shape[0], 1), features.dtype)], axis=1)


def rbf_kernel(x: jax.Array, z: jax.Array, *, gamma: float | None = None) -> jax.Array:
  """`k(x, z) = exp(-gamma |x - z|^2)`.

  Args:
    x: `[n, features]`.
    z: `[m, features]`.
    gamma: inverse squared width; `None` for `1 / features`.

  Returns:
    `[n, m]` in (0, 1], exactly 1 for equal rows, float32 (float64 for float64).

  Raises:
    ValueError: if an argument is not a matrix or the widths differ.
  """
  x, z = _check("rbf_kernel", x, z)
  return jnp.exp(-(1 / x.shape[1] if gamma is None else gamma) * pairwise_sq_dists(x, z))


def nngp_kernel(
  x: jax.Array, z: jax.Array, *, depth: int = 2, weight_var: float = 2.0, bias_var: float = 0.01
) -> jax.Array:
  """Covariance of the outputs of infinitely wide ReLU networks at initialisation (neural network Gaussian process).

      K_0 = b + w <x, z> / features
      K_l = b + w sqrt(K_xx K_zz) (sin t + (pi - t) cos t) / (2 pi),   cos t = K_xz / sqrt(K_xx K_zz) of layer l - 1

  with `w` and `b` the variances, and `depth` layers `l`. Angles come from distances between unit vectors and not from
  their products, so that those of nearly equal rows keep their digits in float32.

  Args:
    x: `[n, features]`.
    z: `[m, features]`.
    depth: hidden layers, each with its ReLU; 0 is a linear model.
    weight_var: variance of the weights times their number of inputs; 2 keeps the scale through ReLUs.
    bias_var: variance of the biases.

  Returns:
    `[n, m]`, float32 (float64 for float64). Gradients are finite everywhere, also where rows are equal.

  Raises:
    ValueError: if an argument is not a matrix, the widths differ, `depth < 0`, or a variance is negative.

  References:
    Cho and Saul, "Kernel Methods for Deep Learning" (NIPS 2009), eq. 6; Lee et al. (arXiv 1711.00165), eq. 11.
  """
  return _arc_cosine("nngp_kernel", x, z, depth, weight_var, bias_var)[0]


def ntk_kernel(
  x: jax.Array, z: jax.Array, *, depth: int = 2, weight_var: float = 2.0, bias_var: float = 0.01
) -> jax.Array:
  """Neural tangent kernel of infinitely wide ReLU networks: `<d f(x), d f(z)>` over all parameters.

      T_0 = K_0,   T_l = K_l + w (pi - t) / (2 pi) T_(l-1)

  with the covariances `K_l` and angles `t` of `nngp_kernel`, for networks whose weights are `N(0, 1)` and are scaled
  by `sqrt(w / inputs)` when they are used, biases by `sqrt(b)`.

  Args:
    x: `[n, features]`.
    z: `[m, features]`.
    depth, weight_var, bias_var: as for `nngp_kernel`.

  Returns:
    `[n, m]`, float32 (float64 for float64). The kernel has a kink where rows are equal; its gradient is 0 there.

  Raises:
    ValueError: as for `nngp_kernel`.

  References:
    Jacot et al., "Neural Tangent Kernel" (arXiv 1806.07572), theorem 1.
  """
  return _arc_cosine("ntk_kernel", x, z, depth, weight_var, bias_var)[1]


def _arc_cosine(name: str, x, z, depth: int, weight_var: float, bias_var: float) -> tuple[jax.Array, jax.Array]:
  """The covariance and the tangent kernel of the outputs."""
  x, z = _check(name, x, z)
  if depth < 0 or weight_var < 0 or bias_var < 0:
    raise ValueError(f"{name}: depth={depth}, weight_var={weight_var}, bias_var={bias_var} must not be negative")
  x, z = (_first_layer(rows, weight_var, bias_var) for rows in (x, z))
  own_x, own_z = (jnp.sum(jnp.square(rows), axis=1) for rows in (x, z))  # K_xx [n], K_zz [m]
  versine = _versine(unit(x), unit(z))
  covariance = _outer(own_x, own_z) * (1 - versine)
  tangent = covariance
  for _ in range(depth):
    angle, fallen = _arc(versine)
    p, r = (safe_sqrt(weight_var * own / 2) for own in (own_x, own_z))
    product = p[:, None] * r[None]
    covariance = bias_var + product * (1 - fallen)
    tangent = covariance + weight_var * (math.pi - angle) / (2 * math.pi) * tangent
    own_x, own_z = (bias_var + weight_var * own / 2 for own in (own_x, own_z))
    scale = _outer(own_x, own_z)
    # sqrt((b + p^2) (b + r^2)) - b - p r, in a form that is exactly 0 for p = r
    unequal = bias_var * jnp.square(p[:, None] - r[None]) / _positive(scale + bias_var + product)
    versine = jnp.maximum((unequal + product * fallen) / _positive(scale), 0)
  return covariance, tangent


def _versine(x: jax.Array, z: jax.Array) -> jax.Array:
  """`1 - <x_i, z_j>` of unit vectors `[n, m]`, also to be relied on where it is small.

  A product of matrices leaves an error of about 1e-7 in float32, which is too much of a small versine. Where a row of
  `x` is near one of `z` at most, that one is computed again by its distance; where some are near several, all are,
  which takes ten times as long.
  """
  product = jnp.maximum(1 - gram(x, z), 0)
  if not product.size:
    return product

  def nearest():
    rows, columns = jnp.arange(x.shape[0]), jnp.argmin(jax.lax.stop_gradient(product), axis=1)
    return product.at[rows, columns].set(jnp.sum(jnp.square(x - z[columns]), axis=1) / 2)

  near = jnp.max(jnp.sum(product < _NEAR, axis=1))
  return jax.lax.switch(jnp.minimum(near, 2), [lambda: product, nearest, lambda: pairwise_sq_dists(x, z) / 2])


@jax.custom_jvp
def _arc(versine: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The angle `t` of a versine `1 - cos t` in [0, 2], and `1 - (sin t + (pi - t) cos t) / pi` without cancellation.

  No function of an angle is called, for these take longer than the product of matrices that the versines come from. The
  second value has the derivative `1 - t / pi`.
  """
  half = jnp.minimum(versine / 2, 1)  # sin^2 (t / 2)
  smaller = jnp.where(half > 0.5, 1 - half, half)
  root = jnp.sqrt(smaller)
  arc = jnp.arcsin(root) if versine.dtype == jnp.float64 else root * jnp.polyval(_ARC_SINE, smaller)
  angle = jnp.where(half > 0.5, math.pi - 2 * arc, 2 * arc)
  sine = 2 * jnp.sqrt(half * (1 - half))
  return angle, versine - (sine - angle * (1 - versine)) / math.pi


@_arc.defjvp
def _arc_jvp(primals, tangents):
  (versine,), (change,) = primals, tangents
  angle, fallen = _arc(versine)
  sine = safe_sqrt(versine * (2 - versine))
  return (angle, fallen), (jnp.where(sine > 0, change / _positive(sine), 0), change * (1 - angle / math.pi))


def _first_layer(rows: jax.Array, weight_var: float, bias_var: float) -> jax.Array:
  """Rows whose products are `b + w <x, z> / features`."""
  bias = jnp.full((rows.shape[0], 1), math.sqrt(bias_var), rows.dtype)
  return jnp.concatenate([math.sqrt(weight_var / rows.shape[1]) * rows, bias], axis=1)


def _outer(a: jax.Array, b: jax.Array) -> jax.Array:
  """`sqrt(a_i b_j)`."""
  return safe_sqrt(a)[:, None] * safe_sqrt(b)[None]


def _positive(x: jax.Array) -> jax.Array:
  """A divisor: 1 where `x` is 0, which is where what it divides is 0 as well."""
  return jnp.where(x > 0, x, 1)


def _check(name: str, x: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array]:
  check_rank(name, "x", x, 2)
  check_rank(name, "z", z, 2)
  x, z = widen(x), widen(z)
  if x.shape[1] != z.shape[1]:
    raise ValueError(f"{name}: rows of x {x.shape} and z {z.shape} must have one width")
  return x, z
