"""Group norm as one scale and one shift of every channel, made of sums by channel.

With groups as an axis of their own, which is a few channels long, XLA:CPU sums and multiplies place by place instead of
in vectors (`docs/speed.md`).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jdistill.ops.precision import widen

Moments = tuple[jax.Array, jax.Array]


def channel_moments(x: jax.Array) -> Moments:
  """Means of values and of squares over all places, in float32 or wider: `[n, ..., c] -> [n, c], [n, c]`."""
  wide, places = widen(x), tuple(range(1, x.ndim - 1))
  return jnp.mean(wide, places), jnp.mean(jnp.square(wide), places)


def group_scaling(moments: Moments, groups: int, epsilon: float) -> Moments:
  """`(scale, shift)` with which `x scale + shift` has zero mean and unit variance in every group and example.

  With the group's mean `m` and its mean of squares `q`, `scale = 1 / sqrt(q - m^2 + epsilon)` and `shift = -m scale`.
  The variance is biased, and for means that are far larger than deviations less exact than one of centred values.

  Args:
    moments: of `channel_moments`.
    groups: of neighbouring channels; divides them.
    epsilon: added to the variance.

  Returns:
    `[n, c]` each.
  """
  size = moments[0].shape[-1] // groups
  # as a product of matrices, which is computed once: a reduction and its repetition would move into every place's pass
  same = np.kron(np.eye(groups), np.full((size, size), 1 / size)).astype(moments[0].dtype)
  mean, square = (jnp.dot(moment, same, precision=lax.Precision.HIGHEST) for moment in moments)
  scale = lax.rsqrt(jnp.maximum(square - jnp.square(mean), 0.0) + epsilon)
  return scale, -mean * scale


def scaled(x: jax.Array, scaling: Moments) -> jax.Array:
  """`x scale + shift` of `[n, ..., c]` by `[n, c]` each, in the type of `x`."""
  scale, shift = (part.reshape(part.shape[0], *(1,) * (x.ndim - 2), -1) for part in scaling)
  return (widen(x) * scale + shift).astype(x.dtype)


def group_norm(x: jax.Array, groups: int, epsilon: float = 1e-5) -> jax.Array:
  """Every group of neighbouring channels and all places of an example to zero mean and unit variance.

  Args:
    x: `[n, ..., c]`.
    groups: divides the channels.
    epsilon: added to the biased variance.

  Returns:
    The shape and type of `x`; moments are in float32 or wider.
  """
  return scaled(x, group_scaling(channel_moments(x), groups, epsilon))
