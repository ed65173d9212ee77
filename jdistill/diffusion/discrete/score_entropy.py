"""Score entropy: how a network learns the concrete score of noisy tokens, the ratios `p_t(y) / p_t(x)`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jdistill.base import Key
from jdistill.diffusion.discrete.graphs import Graph, spread
from jdistill.diffusion.discrete.noise import TokenNoise
from jdistill.ops.checks import keep, leading_mask
from jdistill.ops.precision import widen


def check_score(name: str, graph: Graph, score: jax.Array, x: jax.Array) -> None:
  """Raises `ValueError` unless `score` has one entry per state for every token of `x`."""
  expected = (*x.shape, graph.states)
  if score.shape == expected:
    return
  hint = ""
  if score.shape == (*x.shape, graph.tokens):
    hint = f"; the mask is a state too, so a network of {graph.tokens} tokens needs {graph.states} outputs"
  raise ValueError(f"{name}: scores of tokens {x.shape} must be {expected}, got {score.shape}{hint}")


def log_score(graph: Graph, outputs: jax.Array, x: jax.Array, sigma: jax.Array, *, scale: bool = True) -> jax.Array:
  """A network's outputs as the log of a concrete score: 0 at the current token, and for a mask scaled by the noise.

      log s(y) = outputs(y) - log(exp(sigma) - 1) - log(states - 1)   for y != x, in the absorbing graph

  The shift is the size of the true ratios, so that what the network itself learns is near 0.

  Args:
    graph: the forward process.
    outputs: `[..., states]`.
    x: `[...]`, the noisy tokens.
    sigma: total noise, `[]` or a leading part of the shape of `x`.
    scale: whether outputs of the absorbing graph are shifted ("scale_by_sigma" of the release); others never are.

  Returns:
    `[..., states]`, float32 or float64.

  References:
    Lou et al. (arXiv 2310.16834), sec. 5.1 and the release.
  """
  check_score("log_score", graph, outputs, x)
  outputs = widen(outputs)
  if scale and graph.mask is not None:
    shift = jnp.log(jnp.expm1(spread(sigma, outputs.ndim))) + jnp.log(graph.states - 1.0)
    outputs = outputs - shift.astype(outputs.dtype)
  return jnp.where(_current(graph, x), 0, outputs)


def score_entropy(
  graph: Graph, log_scores: jax.Array, sigma: jax.Array, x: jax.Array, x0: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
  """The score entropy of each token, given what it was before the noise.

      sum_{y != x} Q[x, y] ( s(y) - r(y) log s(y) + r(y) (log r(y) - 1) ),   r(y) = p_sigma(y | x0) / p_sigma(x | x0)

  At least 0, and 0 where `s = r`; its mean over `x0` given the noisy `x` is least at the ratios of the noisy law. In
  the absorbing graph only masked tokens count, with `r(x0) = 1 / (exp(sigma) - 1)` and 0 elsewhere.

  Args:
    graph: `absorb` or `uniform`.
    log_scores: `[..., states]`, `log s`; the entry at the current token is not read.
    sigma: total noise, `[]` or a leading part of the shape of `x`, above 0.
    x: `[...]`, the noisy tokens.
    x0: `[...]`, the tokens of the data.
    where: `[...]` or a leading part of it, which tokens count; what stands in others reaches no value or gradient.

  Returns:
    `[...]`, one number per token, 0 for those that do not count. Float32 or float64.

  Raises:
    ValueError: scores of another shape.

  References:
    Lou et al. (arXiv 2310.16834), def. 3.4 and the release, whose constants these are.
  """
  check_score("score_entropy", graph, log_scores, x)
  counted = leading_mask("score_entropy", where, x.shape)
  log_scores = keep(widen(log_scores), counted)
  sigma = spread(sigma, x.ndim).astype(log_scores.dtype)
  if graph.mask is not None:
    masked = x == graph.mask
    found = jnp.where(masked, _of_masks(graph, keep(log_scores, masked), sigma, x0), 0)
  else:
    found = _of_uniform(graph, log_scores, sigma, x, x0)
  return keep(found, counted)


def _of_masks(graph: Graph, log_scores: jax.Array, sigma: jax.Array, x0: jax.Array) -> jax.Array:
  log_ratio = -jnp.log(jnp.expm1(sigma))
  own = jnp.take_along_axis(log_scores, x0[..., None], axis=-1)[..., 0]
  return jnp.sum(jnp.exp(log_scores[..., : graph.mask]), axis=-1) + jnp.exp(log_ratio) * (log_ratio - 1 - own)


def _of_uniform(graph: Graph, log_scores: jax.Array, sigma: jax.Array, x: jax.Array, x0: jax.Array) -> jax.Array:
  moved = jnp.expm1(sigma)
  log_ratio = (jnp.log(moved) - jnp.log(moved + graph.states))[..., None]  # of a token that is not x0 to x0
  data = jax.nn.one_hot(x0, graph.states, dtype=bool)
  logs = jnp.where((x == x0)[..., None], log_ratio, jnp.where(data, -log_ratio, 0))  # log r(y)
  terms = jnp.exp(log_scores) + jnp.exp(logs) * (logs - 1 - log_scores)
  return jnp.sum(jnp.where(_current(graph, x), 0, terms), axis=-1) / graph.states


def score_entropy_loss(
  key: Key,
  log_score_fn: Callable[[jax.Array, jax.Array], jax.Array],
  graph: Graph,
  noise: TokenNoise,
  x0: jax.Array,
  *,
  t: jax.Array | None = None,
  t_min: float = 1e-3,
  where: jax.Array | None = None,
) -> jax.Array:
  """The loss of a score network: `sum_l sigma'(t) score_entropy(x_t, x0)_l` at one random time per row.

  With `t` from 0 to 1 its mean bounds the negative log-likelihood of a row in nats, up to the prior's share.

  Args:
    key: decides times and noise.
    log_score_fn: `(x_t [B, L], sigma [B]) -> log s [B, L, states]`, such as `log_score` of a network.
    graph, noise: the forward process.
    x0: `[B, L]` tokens of the data.
    t: `[B]` times; `None` draws them uniformly from `[t_min, 1]`.
    t_min: the least time.
    where: `[B, L]` or `[B]`, which tokens count.

  Returns:
    `[B]`, nats per row.

  References:
    Lou et al. (arXiv 2310.16834), eq. 9 and alg. 1.
  """
  key_time, key_noise = jax.random.split(key)
  if t is None:
    t = jax.random.uniform(key_time, x0.shape[:1], minval=t_min, maxval=1.0)
  sigma = noise.sigma(t)
  x = graph.sample(key_noise, x0, sigma)
  entropy = score_entropy(graph, log_score_fn(x, sigma), sigma, x, x0, where=where)
  return noise.rate(t) * jnp.sum(entropy, axis=-1)


def _current(graph: Graph, x: jax.Array) -> jax.Array:
  return jax.nn.one_hot(x, graph.states, dtype=bool)
