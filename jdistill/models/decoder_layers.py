"""Layers of decoder-only transformers: norms, rotary positions, attention with a cache, and gated networks.

Matrix products run in the type of `x`; norms, rotations, scores and softmax in float32 (in float64 where `x` is).
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jdistill.models.layers import drawn_later
from jdistill.ops.precision import widen

_UNSEEN = -1e30  # a score, not -inf: the softmax of a row that sees nothing is then finite, and so is its gradient


class Rows(NamedTuple):
  """Rows of tokens, each of one or more documents and padding anywhere.

  Attributes:
    tokens: `[B, T]` int ids; those of padding may be any.
    segments: `[B, T]` int32, 0 for padding, else the same number for all tokens of a document. Tokens see those of
      their own document only.
    positions: `[B, T]` int32, counted from 0 in every document.
  """

  tokens: jax.Array
  segments: jax.Array
  positions: jax.Array


def _wide(x: jax.Array):
  return jnp.float64 if x.dtype == jnp.float64 else jnp.float32


class TokenNorm(nn.Module):
  """Normalises the last axis and multiplies by `scale`, both in float32.

  `"rms"` is `x / sqrt(mean(x^2) + epsilon) * scale` (arXiv 1910.07467); `"layer"` is
  `(x - mean) / sqrt(variance + epsilon) * scale + bias`.
  """

  kind: str
  epsilon: float

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    wide = widen(x)
    scale = self.param("scale", drawn_later, x.shape[-1:]).astype(wide.dtype).reshape(1, 1, -1)
    if self.kind == "layer":
      wide -= jnp.mean(wide, -1, keepdims=True)
    wide *= lax.rsqrt(jnp.mean(jnp.square(wide), -1, keepdims=True) + self.epsilon) * scale
    if self.kind == "layer":
      wide += self.param("bias", drawn_later, x.shape[-1:]).astype(wide.dtype).reshape(1, 1, -1)
    return wide.astype(x.dtype)


class Table(nn.Module):
  """A row of `kernel`, `[rows, features]`, per id; an id that is out of range gives NaN, where `kernel[ids]` would
  silently take the last row."""

  rows: int
  features: int

  def setup(self):
    self.kernel = self.param("kernel", drawn_later, (self.rows, self.features))

  def __call__(self, ids: jax.Array) -> jax.Array:
    return jnp.take(self.kernel, ids, axis=0, mode="fill", fill_value=jnp.nan)


class Affine(nn.Module):
  """`x @ kernel (+ bias)` on the last axis, with parameters in the type of `x`."""

  features: int
  use_bias: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    kernel = self.param("kernel", drawn_later, (x.shape[-1], self.features)).astype(x.dtype)
    y = x.reshape(-1, x.shape[-1]) @ kernel  # one product of two matrices, whatever the axes before
    if self.use_bias:
      y += self.param("bias", drawn_later, (self.features,)).astype(x.dtype).reshape(1, -1)
    return y.reshape(*x.shape[:-1], self.features)


class Head(nn.Module):
  """Logits `x @ kernel` in float32, from `x` of any type; the kernel may come from elsewhere."""

  features: int

  @nn.compact
  def __call__(self, x: jax.Array, kernel: jax.Array | None = None) -> jax.Array:
    if kernel is None:
      kernel = self.param("kernel", drawn_later, (x.shape[-1], self.features))
    flat = x.reshape(-1, x.shape[-1])
    y = jnp.matmul(flat, kernel.astype(x.dtype), preferred_element_type=_wide(x))
    return y.reshape(*x.shape[:-1], self.features)


def rotate(x: jax.Array, positions: jax.Array, theta: float) -> jax.Array:
  """Rotary positions (RoPE): turns number `i` and number `i + size / 2` of a head by `position * theta^(-2 i / size)`.

  These pairs are the halves of a head, as in Hugging Face's models; GGUF files and the paper pair neighbours.

  Args:
    x: `[B, T, heads, size]`, `size` even.
    positions: `[B, T]` ints.
    theta: base of the frequencies.

  Returns:
    As `x`.

  References:
    Su et al., RoFormer: Enhanced Transformer with Rotary Position Embedding, arXiv:2104.09864, eq. 34.
  """
  wide = widen(x)
  half = x.shape[-1] // 2
  frequencies = theta ** (-jnp.arange(half, dtype=wide.dtype) / half)
  angles = positions[:, :, None, None].astype(wide.dtype) * frequencies.reshape(1, 1, 1, -1)  # [B, T, 1, half]
  cos, sin = jnp.cos(angles), jnp.sin(angles)
  first, second = wide[..., :half], wide[..., half:]
  return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def attend(queries: jax.Array, keys: jax.Array, values: jax.Array, seen: jax.Array) -> jax.Array:
  """`softmax(Q K^T / sqrt(size)) V`, where neighbouring heads of `Q` share one head of `K` and `V`.

  Args:
    queries: `[B, T, heads, size]`.
    keys, values: `[B, kv_heads, S, size]`; `kv_heads` divides `heads`.
    seen: `[B or 1, T, S]` bool. A token that sees nothing gets a mean of all values.

  Returns:
    `[B, T, heads * size]`.

  References:
    Ainslie et al., GQA: Training Generalized Multi-Query Transformer Models, arXiv:2305.13245.
  """
  batch, tokens, heads, size = queries.shape
  groups = keys.shape[1]
  queries = queries.reshape(batch, tokens, groups, heads // groups, size)
  scores = jnp.einsum("btkgd,bksd->bkgts", queries, keys, preferred_element_type=_wide(queries))
  scores = jnp.where(seen[:, None, None], scores / math.sqrt(size), _UNSEEN)
  weights = jax.nn.softmax(scores, axis=-1).astype(values.dtype)
  return jnp.einsum("bkgts,bksd->btkgd", weights, values).reshape(batch, tokens, heads * size)


def visible(segments: jax.Array | None, tokens: int) -> jax.Array:
  """Who sees whom, `[B or 1, T, T]` bool: a token itself and those before it in its document."""
  causal = jnp.tril(jnp.ones((1, tokens, tokens), bool))
  if segments is None:
    return causal
  return causal & (segments[:, :, None] == segments[:, None, :]) & (segments > 0)[:, None, :]


def last_of(x: jax.Array, segments: jax.Array) -> jax.Array:
  """The last token of each row that is no padding, `[B, T, ...] -> [B, 1, ...]`; the first of a row without any."""
  places = jnp.where(segments > 0, jnp.arange(segments.shape[1], dtype=jnp.int32)[None], 0)
  return jnp.take_along_axis(x, jnp.max(places, axis=1)[:, None, None], axis=1)
