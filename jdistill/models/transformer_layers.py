"""Layers on tokens `[n, tokens, dim]`: patches, layer norm, dense maps, GELU networks and self-attention."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdistill.base import UserError
from jdistill.models.layers import Conv, Dense, drawn_later

EPSILON = 1e-6  # of layer norm, as in the papers' code


class LayerNorm(nn.Module):
  """`(x - mean) / sqrt(variance + 1e-6) * scale + bias` over the last axis, with `scale` and `bias` of its length."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    scale, bias = (self.param(name, drawn_later, x.shape[-1:]).reshape(1, 1, -1) for name in ("scale", "bias"))
    return plain_norm(x) * scale + bias


def plain_norm(x: jax.Array) -> jax.Array:
  """`(x - mean) / sqrt(variance + 1e-6)` over the last axis."""
  centred = x - jnp.mean(x, -1, keepdims=True)
  return centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), -1, keepdims=True) + EPSILON)


class Positions(nn.Module):
  """Adds one learned vector per token, a parameter `kernel` of `[tokens, dim]`."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    return x + self.param("kernel", drawn_later, x.shape[1:])[None]


class ClassToken(nn.Module):
  """Puts one learned token, a parameter `bias` of `[dim]` that starts at zero, before the others."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    token = self.param("bias", drawn_later, x.shape[-1:]).reshape(1, 1, -1)
    return jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, x.shape[-1])), x], axis=1)


def patches(x: jax.Array, patch: int, dim: int, name: str) -> jax.Array:
  """Maps each square of pixels to a token by one affine map, rows of squares first.

  Args:
    x: `[n, h, w, c]`.
    patch: side of the squares.
    dim: length of a token.
    name: of the convolution in the calling module.

  Returns:
    `[n, h / patch * w / patch, dim]`.

  Raises:
    UserError: the squares do not tile the images.
  """
  height, width = x.shape[1:3]
  if height % patch or width % patch:
    raise UserError(f"patch: {patch} does not divide images of {height}x{width}; choose a divisor of both sides")
  x = Conv(dim, patch, 0, patch, name=name)(x)
  return x.reshape(x.shape[0], -1, dim)


def dense(x: jax.Array, features: int, name: str) -> jax.Array:
  """The same affine map for each token: `[n, tokens, i] -> [n, tokens, features]`; `name` is the layer's."""
  return Dense(features, name=name)(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], features)


def gelu_network(x: jax.Array, units: int, prefix: str) -> jax.Array:
  """Dense, GELU (exact, not the tanh formula) and dense on the last axis, which keeps its length.

  Args:
    x: `[n, tokens, dim]`.
    units: hidden units.
    prefix: of the layers' names, `{prefix}dense0` and `{prefix}dense1`.

  Returns:
    `[n, tokens, dim]`.
  """
  hidden = jax.nn.gelu(dense(x, units, f"{prefix}dense0"), approximate=False)
  return dense(hidden, x.shape[-1], f"{prefix}dense1")


def self_attention(x: jax.Array, heads: int, prefix: str, seen: jax.Array | None = None) -> jax.Array:
  """`softmax(Q K^T / sqrt(dim / heads)) V` per head, then one dense map over all heads.

  Args:
    x: `[n, tokens, dim]`.
    heads: a divisor of `dim`; each head has `dim / heads` neighbouring channels of Q, K and V.
    prefix: of the layers' names: `{prefix}qkv` (Q, K and V side by side) and `{prefix}out`.
    seen: `[n, tokens]` bool, at least one of each row: the tokens that others attend to; `None` for all.

  Returns:
    `[n, tokens, dim]`.
  """
  n, tokens, dim = x.shape
  qkv = dense(x, 3 * dim, f"{prefix}qkv").reshape(n, tokens, 3, heads, dim // heads)
  queries, keys, values = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]  # [n, tokens, heads, dim / heads]
  scores = jnp.einsum("nqhd,nkhd->nhqk", queries, keys) / math.sqrt(dim // heads)
  if seen is not None:
    scores = jnp.where(seen[:, None, None], scores, -jnp.inf)
  mixed = jnp.einsum("nhqk,nkhd->nqhd", jax.nn.softmax(scores, axis=-1), values)
  return dense(mixed.reshape(n, tokens, dim), dim, f"{prefix}out")


def block(x: jax.Array, heads: int, prefix: str, seen: jax.Array | None = None) -> jax.Array:
  """`x + attention(norm(x))`, then `x + network(norm(x))` with 4 * `dim` hidden units: a pre-norm transformer block.

  Args:
    x: `[n, tokens, dim]`.
    heads: of the attention.
    prefix: of all layers' names; the norms are `{prefix}norm0` and `{prefix}norm1`.
    seen: see `self_attention`.

  Returns:
    `[n, tokens, dim]`.
  """
  x = x + self_attention(LayerNorm(name=f"{prefix}norm0")(x), heads, prefix, seen)
  return x + gelu_network(LayerNorm(name=f"{prefix}norm1")(x), 4 * x.shape[-1], prefix)


def check_heads(dim: int, heads: int, names: tuple[str, str] = ("dim", "heads")) -> None:
  """Raises `UserError` unless `heads` divides `dim`; `names` are those of the options."""
  if dim % heads:
    raise UserError(f"{names[1]}: {heads} does not divide {names[0]} {dim}; choose a divisor")
