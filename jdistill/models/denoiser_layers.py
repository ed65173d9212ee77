"""Layers of denoisers: noise levels and conditions as features, and maps that these modulate."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdistill.models.layers import Conv, Dense
from jdistill.models.transformer_layers import gelu_network, plain_norm, self_attention
from jdistill.ops.group_norm import Moments, channel_moments, group_scaling, scaled
from jdistill.ops.precision import widen

GROUP_EPSILON, _GROUPS = 1e-5, 8


def wave_features(noise: jax.Array, size: int) -> jax.Array:
  """Sines and cosines of `noise` times `size / 2` frequencies from 1/2 to 64, in equal ratios: `[n] -> [n, size]`."""
  half = size // 2
  frequencies = jnp.exp(jnp.linspace(math.log(0.5), math.log(64), half, dtype=jnp.float32))
  angles = widen(noise)[:, None] * frequencies[None]
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)


def condition_features(noise: jax.Array, cond: jax.Array, conditions: int, size: int) -> jax.Array:
  """One vector of a noise level and a condition: `[n], [n] -> [n, size]`.

  `silu(dense(silu(dense(waves)) + embedding))`, in the calling module as `noise0`, `condition` and `noise1`. A network
  without conditions has no `condition`. The embedding of no condition is the last row of its kernel.
  """
  x = jax.nn.silu(Dense(size, name="noise0")(wave_features(noise, size)))
  if conditions > 1:
    rows = jax.nn.one_hot(cond, conditions + 1, dtype=x.dtype) * math.sqrt(conditions + 1)  # to unit variance
    x = x + Dense(size, name="condition")(rows)
  return jax.nn.silu(Dense(size, name="noise1")(x))


def modulated(x: jax.Array, features: jax.Array, name: str) -> jax.Array:
  """`x (1 + scale) + shift`, both dense maps of the features (FiLM): `[n, ..., c], [n, size] -> [n, ..., c]`.

  The map starts at zero, so that nothing is changed at first; see `denoiser_init`.
  """
  scale, shift = (part.reshape(-1, *(1,) * (x.ndim - 2), x.shape[-1]) for part in film(features, x.shape[-1], name))
  return x * (1 + scale) + shift


def film(features: jax.Array, channels: int, name: str) -> tuple[jax.Array, jax.Array]:
  """`(scale, shift)` of `modulated`, `[n, channels]` each."""
  return tuple(jnp.split(Dense(2 * channels, name=f"{name}_zero")(features), 2, axis=1))


def gated_block(x: jax.Array, features: jax.Array, heads: int, prefix: str) -> jax.Array:
  """A transformer block that features modulate (adaLN-Zero, arXiv 2212.09748): `[n, tokens, dim], [n, size]`.

  `x + a attention(m(norm(x)))`, then `x + b network(m(norm(x)))` with 4 * `dim` hidden units; the gates `a`, `b` and
  the modulations `m` are dense maps of the features that start at zero.
  """
  gates = Dense(2 * x.shape[-1], name=f"{prefix}gates_zero")(features)
  first, second = (gate[:, None] for gate in jnp.split(gates, 2, axis=1))
  x = x + first * self_attention(modulated(plain_norm(x), features, f"{prefix}film0"), heads, prefix)
  return x + second * gelu_network(modulated(plain_norm(x), features, f"{prefix}film1"), 4 * x.shape[-1], prefix)


class GroupNorm(nn.Module):
  """Every group of channels and all places of an example to zero mean and unit variance; no parameters.

  Attributes:
    groups: at most; a divisor of the channels is taken.
  """

  groups: int = _GROUPS

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    return scaled(x, _scaling(x, self.groups))


def _scaling(x: jax.Array, groups: int = _GROUPS) -> Moments:
  return group_scaling(channel_moments(x), math.gcd(groups, x.shape[-1]), GROUP_EPSILON)


def residual_block(x: jax.Array, features: jax.Array, channels: int, name: str) -> jax.Array:
  """`skip(x) + conv(silu(modulated(norm(conv(silu(norm(x)))))))`, `[n, h, w, c] -> [n, h, w, channels]`.

  Kernels are 3x3; that of the skip connection is 1x1, where the number of channels changes. The second convolution
  starts at zero.
  """
  hidden = Conv(channels, 3, 1, 1, name=f"{name}_conv0")(jax.nn.silu(GroupNorm()(x)))
  scale, shift = _scaling(hidden)
  more, other = film(features, channels, f"{name}_film")
  hidden = jax.nn.silu(scaled(hidden, (scale * (1 + more), shift * (1 + more) + other)))  # norm and modulation in one
  hidden = Conv(channels, 3, 1, 1, name=f"{name}_conv1_zero")(hidden)
  if x.shape[-1] != channels:
    x = Conv(channels, 1, 0, 1, name=f"{name}_skip")(x)
  return x + hidden


def up2(x: jax.Array) -> jax.Array:
  """Every place as 2x2 places: `[n, h, w, c] -> [n, 2h, 2w, c]`."""
  return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
