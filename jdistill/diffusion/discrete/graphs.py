"""Forward processes of tokens: continuous-time Markov chains whose transitions have a closed form."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jdistill.base import Key
from jdistill.ops.precision import widen


class Graph(NamedTuple):
  """Which jumps a token makes, at rate 1: `p_sigma = exp(sigma Q) p_0` for each token by itself.

  `Q[y, x]` is the rate from `x` to `y`, so that columns sum to 0. States are `0 ... states - 1`. Functions take tokens
  `x [...]` and amounts of noise `sigma`, a number or an array whose shape is a leading part of that of `x`, such as
  `[B]` for `x [B, L]`. A graph can be hashed, and so be a static argument of `jax.jit`.

  Attributes:
    states: how many states a token has, the mask included.
    tokens: how many of them occur in data; these come first.
    mask: the absorbing state, or `None`.
    rate: `x -> Q[:, x]`, `[..., states]`: what leaves `x`, float32 (float64 under x64).
    transposed_rate: `x -> Q[x, :]`, `[..., states]`: what enters `x`. Reverse rates are a score times it.
    transition: `(x, sigma) -> exp(sigma Q)[:, x]`, `[..., states]`: where `x` is after `sigma`, a distribution.
    transposed_transition: `(x, sigma) -> exp(sigma Q)[x, :]`: how probable `x` is after `sigma`, from each state.
    staggered_score: `(score, sigma) -> exp(-sigma Q) score`, over the last axis: with `score[y] = p_t(y) / p_t(x)` the
      ratio `p_s(y) / p_t(x)` of an earlier law, `sigma` before.
    sample: `(key, x, sigma) -> x_t`, a draw of `transition`.
    prior: `[states]`, the law after much noise.
    sample_prior: `(key, shape) -> x`, a draw of it, int32.
  """

  states: int
  tokens: int
  mask: int | None
  rate: Callable[[jax.Array], jax.Array]
  transposed_rate: Callable[[jax.Array], jax.Array]
  transition: Callable[[jax.Array, jax.Array], jax.Array]
  transposed_transition: Callable[[jax.Array, jax.Array], jax.Array]
  staggered_score: Callable[[jax.Array, jax.Array], jax.Array]
  sample: Callable[[Key, jax.Array, jax.Array], jax.Array]
  prior: tuple[float, ...]
  sample_prior: Callable[[Key, tuple[int, ...]], jax.Array]


def spread(sigma: jax.Array, rank: int) -> jax.Array:
  """`sigma` with axes of length 1 behind its own until it has `rank` of them, in float32 or float64."""
  sigma = widen(sigma)
  return sigma.reshape(sigma.shape + (1,) * (rank - sigma.ndim))


def absorb(tokens: int) -> Graph:
  """Every token jumps to the mask, which is the state `tokens`, and stays there.

      Q[mask, x] = 1, Q[x, x] = -1 for x != mask;   P(masked) = 1 - exp(-sigma)

  Args:
    tokens: V, how many there are in data; the mask is one more.

  Raises:
    ValueError: fewer than one.

  References:
    Lou et al., "Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution" (arXiv 2310.16834);
    Austin et al. (arXiv 2107.03006).
  """
  _check_tokens("absorb", tokens, 1)
  states, mask = tokens + 1, tokens

  def hot(x: jax.Array) -> jax.Array:
    return jax.nn.one_hot(x, states, dtype=jnp.result_type(float))

  def is_mask(x: jax.Array) -> jax.Array:
    return (x == mask)[..., None].astype(jnp.result_type(float))

  def transition(x: jax.Array, sigma: jax.Array) -> jax.Array:
    sigma = spread(sigma, x.ndim + 1)
    return jnp.exp(-sigma) * hot(x) - jnp.expm1(-sigma) * hot(jnp.full_like(x, mask))

  def transposed_transition(x: jax.Array, sigma: jax.Array) -> jax.Array:
    sigma = spread(sigma, x.ndim + 1)
    return jnp.exp(-sigma) * hot(x) - jnp.expm1(-sigma) * is_mask(x)

  def staggered_score(score: jax.Array, sigma: jax.Array) -> jax.Array:
    score, sigma = widen(score), spread(sigma, score.ndim)
    visible = jnp.sum(score[..., :mask], axis=-1, keepdims=True)
    return jnp.concatenate([jnp.exp(sigma) * score[..., :mask], score[..., mask:] - jnp.expm1(sigma) * visible], -1)

  def sample(key: Key, x: jax.Array, sigma: jax.Array) -> jax.Array:
    moved = jax.random.uniform(key, x.shape) < -jnp.expm1(-spread(sigma, x.ndim))
    return jnp.where(moved, jnp.asarray(mask, x.dtype), x)

  return Graph(
    states,
    tokens,
    mask,
    rate=lambda x: hot(jnp.full_like(x, mask)) - hot(x),
    transposed_rate=lambda x: is_mask(x) - hot(x),
    transition=transition,
    transposed_transition=transposed_transition,
    staggered_score=staggered_score,
    sample=sample,
    prior=(0.0,) * tokens + (1.0,),
    sample_prior=lambda key, shape: jnp.full(shape, mask, jnp.int32),
  )


def uniform(tokens: int) -> Graph:
  """Every token jumps to a random one, itself included: `Q = 11^T / V - I`; `P(jumped) = 1 - exp(-sigma)`.

  Args:
    tokens: V.

  Raises:
    ValueError: fewer than two.

  References:
    Lou et al. (arXiv 2310.16834); Hoogeboom et al. (arXiv 2102.05379).
  """
  _check_tokens("uniform", tokens, 2)

  def hot(x: jax.Array) -> jax.Array:
    return jax.nn.one_hot(x, tokens, dtype=jnp.result_type(float))

  def rate(x: jax.Array) -> jax.Array:
    return 1 / tokens - hot(x)

  def transition(x: jax.Array, sigma: jax.Array) -> jax.Array:
    sigma = spread(sigma, x.ndim + 1)
    return jnp.exp(-sigma) * hot(x) - jnp.expm1(-sigma) / tokens

  def staggered_score(score: jax.Array, sigma: jax.Array) -> jax.Array:
    score, sigma = widen(score), spread(sigma, score.ndim)
    return jnp.exp(sigma) * score - jnp.expm1(sigma) * jnp.mean(score, axis=-1, keepdims=True)

  def sample(key: Key, x: jax.Array, sigma: jax.Array) -> jax.Array:
    key_move, key_token = jax.random.split(key)
    moved = jax.random.uniform(key_move, x.shape) < -jnp.expm1(-spread(sigma, x.ndim))
    return jnp.where(moved, jax.random.randint(key_token, x.shape, 0, tokens, x.dtype), x)

  return Graph(
    tokens,
    tokens,
    None,
    rate=rate,
    transposed_rate=rate,
    transition=transition,
    transposed_transition=transition,
    staggered_score=staggered_score,
    sample=sample,
    prior=(1 / tokens,) * tokens,
    sample_prior=lambda key, shape: jax.random.randint(key, shape, 0, tokens, jnp.int32),
  )


def _check_tokens(name: str, tokens: int, least: int) -> None:
  if tokens < least:
    raise ValueError(f"{name}: tokens must be at least {least}, got {tokens}")
