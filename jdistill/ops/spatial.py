"""Pooling and per-image normalisation as plain array arithmetic, which differentiates to plain array arithmetic.

`lax.reduce_window` is avoided: its derivatives run slowly on XLA:CPU and have no efficient second order.
"""

import jax
import jax.numpy as jnp
from jax import lax


def _windows(x: jax.Array) -> jax.Array:
  """`[N,H,W,C] -> [N, H//2, 2, W//2, 2, C]`; an odd last row or column is dropped."""
  batch, height, width, channels = x.shape
  x = x[:, : height // 2 * 2, : width // 2 * 2]
  return x.reshape(batch, height // 2, 2, width // 2, 2, channels)


def avg_pool2(x: jax.Array) -> jax.Array:
  """Mean over 2x2 windows with stride 2: `[N,H,W,C] -> [N, H//2, W//2, C]`; odd last rows and columns are dropped."""
  x = _windows(x)
  return 0.25 * ((x[:, :, 0, :, 0] + x[:, :, 0, :, 1]) + (x[:, :, 1, :, 0] + x[:, :, 1, :, 1]))


def max_pool2(x: jax.Array) -> jax.Array:
  """Maximum over 2x2 windows, stride 2: `[N,H,W,C] -> [N, H//2, W//2, C]`; odd last rows and columns are dropped."""
  x = _windows(x)
  return jnp.maximum(jnp.maximum(x[:, :, 0, :, 0], x[:, :, 0, :, 1]), jnp.maximum(x[:, :, 1, :, 0], x[:, :, 1, :, 1]))


def instance_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, *, eps: float = 1e-5) -> jax.Array:
  """Normalises every image and channel over its pixels: `(x - mean) / sqrt(var + eps) * scale + bias`.

  Args:
    x: `[batch, height, width, channels]`.
    scale: `[channels]`.
    bias: `[channels]`.
    eps: added to the biased variance.

  Returns:
    The shape of `x`. A map of one pixel becomes `bias`, as in the group norm with one channel a group that the field's
    networks use.

  References:
    Ulyanov, Vedaldi, Lempitsky, "Instance Normalization" (arXiv 1607.08022), eq. 2.
  """
  mean = jnp.mean(x, axis=(1, 2), keepdims=True)
  centred = x - mean
  var = jnp.mean(jnp.square(centred), axis=(1, 2), keepdims=True)
  gain = lax.rsqrt(var + eps) * scale.reshape(1, 1, 1, -1)
  return centred * gain + bias.reshape(1, 1, 1, -1)
