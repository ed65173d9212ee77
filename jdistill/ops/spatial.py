"""Pooling and normalisation as plain array arithmetic, which differentiates to plain array arithmetic.

`lax.reduce_window` is avoided: its derivatives run slowly on XLA:CPU and have no efficient second order.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax


def _windows(x: jax.Array) -> jax.Array:
  """`[N,H,W,C] -> [N, H//2, 2, W//2, 2, C]`; an odd last row or column is dropped."""
  batch, height, width, channels = x.shape
  x = x[:, : height // 2 * 2, : width // 2 * 2]
  return x.reshape(batch, height // 2, 2, width // 2, 2, channels)


def relu(x: jax.Array) -> jax.Array:
  """`max(x, 0)` with derivative 0 at 0; NaN stays NaN. A choice fuses where XLA:CPU materialises a maximum's zeros."""
  return jnp.where(x <= 0, jnp.zeros((), x.dtype), x)


def avg_pool2(x: jax.Array) -> jax.Array:
  """Mean over 2x2 windows with stride 2: `[N,H,W,C] -> [N, H//2, W//2, C]`; odd last rows and columns are dropped."""
  # a reduction, unlike a sum of slices, is not computed again inside every copy that reads it
  return jnp.mean(_windows(x), axis=(2, 4))


def max_pool2(x: jax.Array) -> jax.Array:
  """Maximum over 2x2 windows, stride 2: `[N,H,W,C] -> [N, H//2, W//2, C]`; odd last rows and columns are dropped."""
  x = _windows(x)
  return jnp.maximum(jnp.maximum(x[:, :, 0, :, 0], x[:, :, 0, :, 1]), jnp.maximum(x[:, :, 1, :, 0], x[:, :, 1, :, 1]))


def max_pool3(x: jax.Array) -> jax.Array:
  """Maximum over 3x3 windows around every second pixel: `[N,H,W,C] -> [N, ceil(H/2), ceil(W/2), C]`."""
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
  height, width = x.shape[1:3]
  parts = (padded[:, i : i + height : 2, j : j + width : 2] for i in range(3) for j in range(3))
  return functools.reduce(jnp.maximum, parts)


def instance_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, *, eps: float = 1e-5) -> jax.Array:
  """Normalises every image and channel over its pixels: `(x - mean) / sqrt(var + eps) * scale + bias`.

  Args:
    x: `[batch, height, width, channels]`.
    scale: `[channels]`.
    bias: `[channels]`.
    eps: added to the biased variance.

  Returns:
    The shape of `x`. The variance is the mean square less the squared mean, which reads `x` once; its rounding error,
    about `1e-7 mean^2`, is far below `eps` as long as means are a few units. A map of one pixel becomes `bias`, as in
    the group norm with one channel a group that the field's networks use.

  References:
    Ulyanov, Vedaldi, Lempitsky, "Instance Normalization" (arXiv 1607.08022), eq. 2.
  """
  mean = jnp.mean(x, axis=(1, 2), keepdims=True)
  var = jnp.maximum(jnp.mean(jnp.square(x), axis=(1, 2), keepdims=True) - jnp.square(mean), 0)
  gain = lax.rsqrt(var + eps) * scale.reshape(1, 1, 1, -1)
  return x * gain + (bias.reshape(1, 1, 1, -1) - mean * gain)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def batch_norm(
  x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float = 1e-5
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Normalises every channel over the batch and its pixels: `(x - mean) / sqrt(variance + eps) * scale + bias`.

  The derivative is stated in the two sums over all rows that a gradient needs anyway: with `d` what arrives, they are
  `sum d`, the gradient of `bias`, and `sum d x`, which gives that of `scale`. So a gradient reads `x` and `d` twice and
  keeps nothing but `x`. It is made of differentiable operations: derivatives of any order and mode exist. Its rounding
  error is about `1e-7 |mean| / deviation`.

  Args:
    x: `[..., channels]`.
    scale: `[channels]`.
    bias: `[channels]`.
    eps: added to the biased variance.

  Returns:
    `(y, mean, variance)`: the shape of `x`, and the moments `[channels]`.

  References:
    Ioffe & Szegedy, "Batch Normalization" (arXiv 1502.03167), algorithm 1.
  """
  axes = tuple(range(x.ndim - 1))
  mean = jnp.mean(x, axes)
  variance = jnp.maximum(jnp.mean(jnp.square(x), axes) - jnp.square(mean), 0)
  gain = lax.rsqrt(variance + eps) * scale
  return (
    (x - along_channels(mean, x.ndim)) * along_channels(gain, x.ndim) + along_channels(bias, x.ndim),
    mean,
    variance,
  )


@batch_norm.defjvp
def _batch_norm_jvp(eps, primals, tangents):
  (x, scale, _), (t, t_scale, t_bias) = primals, tangents
  y, mean, variance = batch_norm(*primals, eps)
  gain, axes = lax.rsqrt(variance + eps), tuple(range(x.ndim - 1))

  def moments(t):
    """Tangents of the mean and of half the variance."""
    t_mean = jnp.mean(t, axes)
    return t_mean, jnp.mean(x * t, axes) - mean * t_mean

  # With z = (x - mean) gain, the tangent of z scale + bias is t - mean(t) - z mean(z t) + z t_scale + t_bias for a `t`
  # that is scaled already. In x instead of z, so that the transpose sums d and d x instead of d, d z, and the same
  # with d scale.
  scaled = t * along_channels(gain * scale, x.ndim)
  drift, spread = moments(scaled)
  slope = gain * (t_scale - gain * spread)
  out = scaled + x * along_channels(slope, x.ndim) + along_channels(t_bias - drift - mean * slope, x.ndim)
  t_mean, half = moments(t)
  return (y, mean, variance), (out, t_mean, 2 * half)


def along_channels(values: jax.Array, rank: int) -> jax.Array:
  """`[channels] -> [1, ..., 1, channels]` of this rank, to meet every row."""
  return values.reshape((1,) * (rank - 1) + (-1,))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def standardize(x: jax.Array, axes: Sequence[int], eps: float = 1e-5) -> jax.Array:
  """`y = (x - mean) / sqrt(variance + eps)` with the mean and the biased variance over `axes`.

  The derivative is stated as `(t - mean(t) - y mean(y t)) / sqrt(variance + eps)`, a map that is its own transpose: two
  means and one pass in every direction, fewer than the derivatives of mean and variance one after another need. It is
  made of differentiable operations, so derivatives of any order and mode exist.

  Args:
    x: any shape.
    axes: over which; a tuple.
    eps: added to the variance.

  Returns:
    The shape of `x`.
  """
  mean, gain = _moments(x, axes, eps)
  return (x - mean) * gain


@standardize.defjvp
def _standardize_jvp(axes, eps, primals, tangents):
  (x,), (t,) = primals, tangents
  y = standardize(x, axes, eps)
  _, gain = _moments(x, axes, eps)
  along = functools.partial(jnp.mean, axis=axes, keepdims=True)
  return y, (t - along(t) - y * along(y * t)) * gain


def _moments(x: jax.Array, axes: Sequence[int], eps: float) -> tuple[jax.Array, jax.Array]:
  mean = jnp.mean(x, axes, keepdims=True)
  return mean, lax.rsqrt(jnp.mean(jnp.square(x - mean), axes, keepdims=True) + eps)
