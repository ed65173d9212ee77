"""Sampling tokens backwards in time: reverse rates, Euler and Tweedie steps, and a sampler in one compiled loop.

A score function is `score_fn(x [B, L], sigma [B]) -> [B, L, states]`: the concrete score `p_t(y) / p_t(x)` of changing
one token, with 1 at the current one. Of a network that gives log-scores it is their exponential.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import Key
from jdistill.diffusion.discrete.graphs import Graph
from jdistill.diffusion.discrete.noise import TokenNoise
from jdistill.diffusion.discrete.score_entropy import check_score
from jdistill.ops.checks import known
from jdistill.ops.precision import widen

ScoreFn = Callable[[jax.Array, jax.Array], jax.Array]
StepFn = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]  # x, score, t, s -> probabilities
APPLY_TO = ("score", "log_score")


def reverse_rate(graph: Graph, x: jax.Array, score: jax.Array) -> jax.Array:
  """Rates of the reversed process at `sigma' = 1`: `Q[x, y] s(y)` for `y != x`, and minus their sum at `x`.

  Args:
    graph: the forward process.
    x: `[B, L]` tokens.
    score: `[B, L, states]`; the entry at the current token is not read.

  Returns:
    `[B, L, states]`, rows sum to 0.

  Raises:
    ValueError: a score of another shape.

  References:
    Lou et al. (arXiv 2310.16834), eq. 4; Campbell et al. (arXiv 2205.14987).
  """
  check_score("reverse_rate", graph, score, x)
  score = widen(score)
  current = jax.nn.one_hot(x, graph.states, dtype=bool)
  rate = jnp.where(current, 0, graph.transposed_rate(x).astype(score.dtype) * score)
  return jnp.where(current, -jnp.sum(rate, axis=-1, keepdims=True), rate)


def euler_probs(x: jax.Array, rate: jax.Array, dt: jax.Array) -> jax.Array:
  """Where each token is after a step of length `dt` at constant rates: `onehot(x) + dt rate`.

  Long steps make the entry at `x` negative; it is set to 0 and the rest made to sum to 1, so that the token jumps.

  Args:
    x: `[B, L]` tokens.
    rate: `[B, L, states]` with the rate of the noise: `sigma'(t) reverse_rate(...)`.
    dt: a scalar, at least 0.

  Returns:
    `[B, L, states]`, a distribution for each token.
  """
  return _normalised(x, jax.nn.one_hot(x, rate.shape[-1], dtype=rate.dtype) + dt * rate)


def tweedie_probs(graph: Graph, x: jax.Array, score: jax.Array, dsigma: jax.Array) -> jax.Array:
  """Where each token was before the last `dsigma` of noise: `(exp(-dsigma Q) s)(y) exp(dsigma Q)[x, y]`.

  With the true score this is the exact law of each token given all noisy ones. Only that tokens are drawn independently
  of each other makes a step inexact. Wrong scores can give negative entries, which are set to 0.

  Args:
    graph: the forward process.
    x: `[B, L]` tokens.
    score: `[B, L, states]`, 1 at the current token.
    dsigma: noise to be removed, a scalar or `[B]`, at least 0.

  Returns:
    `[B, L, states]`, a distribution for each token.

  Raises:
    ValueError: a score of another shape.

  References:
    Lou et al. (arXiv 2310.16834), theorem 4.2; "analytic" in the release.
  """
  check_score("tweedie_probs", graph, score, x)
  score = widen(score)
  dsigma = jnp.asarray(dsigma, score.dtype)
  earlier = graph.staggered_score(score, dsigma)
  return _normalised(x, earlier * graph.transposed_transition(x, dsigma).astype(score.dtype))


def denoise_probs(graph: Graph, x: jax.Array, score: jax.Array, sigma: jax.Array) -> jax.Array:
  """The last step of a sampler: all noise removed at once, and no token left as a mask.

  Args:
    graph, x, score: as for `tweedie_probs`.
    sigma: all the noise that is left, a scalar or `[B]`.

  Returns:
    `[B, L, states]`, a distribution for each token, with 0 for the mask.
  """
  probs = tweedie_probs(graph, x, score, sigma)
  if graph.mask is None:
    return probs
  visible = probs.at[..., graph.mask].set(0)
  total = jnp.sum(visible, axis=-1, keepdims=True)
  return jnp.where(total > 0, visible / jnp.where(total > 0, total, 1), _tokens_alike(graph, visible))


def _tokens_alike(graph: Graph, like: jax.Array) -> jax.Array:
  """A score that is 0 everywhere says nothing of a mask."""
  return jnp.broadcast_to((jnp.arange(graph.states) < graph.tokens).astype(like.dtype) / graph.tokens, like.shape)


def _normalised(x: jax.Array, probs: jax.Array) -> jax.Array:
  probs = jnp.where(probs < 0, 0, probs)  # NaN stays
  total = jnp.sum(probs, axis=-1, keepdims=True)
  stay = jax.nn.one_hot(x, probs.shape[-1], dtype=probs.dtype)
  return jnp.where(total == 0, stay, probs / jnp.where(total == 0, 1, total))


def draw(key: Key, probs: jax.Array) -> jax.Array:
  """Draws from distributions by inversion: one uniform number each, and no state of probability 0 ever.

  Float32 suffices: Gumbel noise of that precision would lower the temperature (arXiv 2409.02908), a uniform number only
  rounds probabilities to 1e-7.

  Args:
    key: a typed key.
    probs: `[..., states]`, not negative; they need not sum to 1.

  Returns:
    `[...]` int32. Where probabilities are NaN this is 0.
  """
  probs = widen(probs)
  totals = jnp.where(probs > 0, jnp.cumsum(probs, axis=-1), -1)
  place = jax.random.uniform(key, probs.shape[:-1], probs.dtype) * jnp.max(totals, axis=-1)
  return jnp.argmax(totals > place[..., None], axis=-1).astype(jnp.int32)


def euler_step(graph: Graph, noise: TokenNoise) -> StepFn:
  """`(x, score, t, s) -> euler_probs` from time `t` down to `s`, at the rates of time `t`."""
  return lambda x, score, t, s: euler_probs(x, noise.rate(t) * reverse_rate(graph, x, score), t - s)


def tweedie_step(graph: Graph, noise: TokenNoise) -> StepFn:
  """`(x, score, t, s) -> tweedie_probs` from time `t` down to `s`."""
  return lambda x, score, t, s: tweedie_probs(graph, x, score, noise.sigma(t) - noise.sigma(s))


def time_grid(steps: int, *, t_max: float = 1.0, t_min: float = 1e-5) -> jax.Array:
  """`[steps + 1]` equally spaced times, falling from `t_max` to `t_min`.

  Raises:
    ValueError: no step, or not `0 <= t_min < t_max <= 1`.
  """
  if steps < 1:
    raise ValueError(f"time_grid: steps must be at least 1, got {steps}")
  if not 0 <= t_min < t_max <= 1:
    raise ValueError(f"time_grid: needs 0 <= t_min < t_max <= 1, got t_min={t_min} and t_max={t_max}")
  return jnp.linspace(t_max, t_min, steps + 1)


def check_times(name: str, times: jax.Array, *, t_max: float = 1.0, t_min: float = 0.0) -> None:
  """Raises `ValueError` unless known `times` are a falling sequence of two or more from at most `t_max` to `t_min`."""
  if np.ndim(times) != 1 or np.shape(times)[0] < 2:
    raise ValueError(f"{name}: times must be a list of at least two, got shape {np.shape(times)}")
  if not known(times):
    return
  given, slack = np.asarray(times), 1e-6  # float32 sums of step sizes
  if not given[0] <= t_max + slack or not given[-1] >= t_min - slack:
    raise ValueError(f"{name}: times must lie from {t_min} to {t_max}, got {given[-1]:g} to {given[0]:g}")
  if not np.all(np.diff(given) < 0):
    k = int(np.argmax(~(np.diff(given) < 0)))
    raise ValueError(f"{name}: times must fall, got {given[k]:g} and then {given[k + 1]:g} at step {k}")


def scaled_score(score: jax.Array, x: jax.Array, phi: jax.Array, apply_to: str = "score") -> jax.Array:
  """A score times a learned coefficient, but for the entry at the current token, which stays 1.

  That entry is a ratio of a law to itself. Scaling it too would leave a Tweedie step as it was.

  Args:
    score: `[B, L, states]`, concrete scores.
    x: `[B, L]`, the current tokens.
    phi: a scalar.
    apply_to: `"score"`, `phi s` (the paper); or `"log_score"`, `s^phi`, what the release does to a network that gives
      logs.

  Raises:
    ValueError: another `apply_to`.

  References:
    Fu et al., "Learnable Sampler Distillation for Discrete Diffusion Models" (arXiv 2509.19962).
  """
  if apply_to not in APPLY_TO:
    raise ValueError(f"scaled_score: apply_to must be one of {', '.join(APPLY_TO)}, got {apply_to!r}")
  score = widen(score)
  phi = jnp.asarray(phi, score.dtype)
  scaled = phi * score if apply_to == "score" else score**phi
  return jnp.where(jax.nn.one_hot(x, score.shape[-1], dtype=bool), score, scaled)


def run_sampler(
  key: Key,
  score_fn: ScoreFn,
  noise: TokenNoise,
  step: StepFn,
  times: jax.Array,
  x: jax.Array,
  *,
  phi: jax.Array | None = None,
  apply_to: str = "score",
  collect: Callable[[jax.Array, jax.Array], Any] | None = None,
) -> tuple[jax.Array, Any]:
  """Runs a sampler from the first to the last time, without the last denoising.

  Args:
    key: step `k` draws with `fold_in(key, k)`.
    score_fn: the score network, frozen.
    noise: of the forward process.
    step: `euler_step(graph, noise)`, `tweedie_step(graph, noise)` or another.
    times: `[M + 1]`, falling.
    x: `[B, L]`, tokens at `times[0]`.
    phi: `[M]`, learned coefficients of the scores; `None` for 1.
    apply_to: see `scaled_score`.
    collect: `(x, score) -> pytree` of what to keep of every step, before coefficients; `lambda x, score: score` keeps
      all scores, which is large. `None` keeps nothing.

  Returns:
    `(x [B, L] at times[-1], what was collected, with a leading axis [M])`.

  Raises:
    ValueError: times that do not fall or lie outside [0, 1], or another number of coefficients than steps.
  """
  check_times("run_sampler", times)
  times = jnp.asarray(times)
  steps = times.shape[0] - 1
  if phi is not None and jnp.shape(phi) != (steps,):
    raise ValueError(f"run_sampler: phi must have one coefficient for each of {steps} steps, got {jnp.shape(phi)}")

  def body(x, k):
    t, s = times[k], times[k + 1]
    score = score_fn(x, jnp.broadcast_to(noise.sigma(t), x.shape[:1]))
    used = score if phi is None else scaled_score(score, x, phi[k], apply_to)
    new = draw(jax.random.fold_in(key, k), step(x, used, t, s))
    return new.astype(x.dtype), None if collect is None else collect(x, score)

  return jax.lax.scan(body, x, jnp.arange(steps))


def sample_tokens(
  key: Key,
  score_fn: ScoreFn,
  graph: Graph,
  noise: TokenNoise,
  step: StepFn,
  times: jax.Array,
  shape: tuple[int, int],
  *,
  phi: jax.Array | None = None,
  apply_to: str = "score",
) -> jax.Array:
  """New rows of tokens: a draw of the prior, the steps of a sampler, and the last denoising, which leaves no mask.

  Args:
    key: decides everything.
    score_fn, noise, step, times, phi, apply_to: see `run_sampler`. The last denoising uses the score as it is.
    graph: the forward process.
    shape: `(B, L)`.

  Returns:
    `[B, L]` int32 below `graph.tokens`. `M + 1` evaluations of the score for `M` steps.
  """
  key_prior, key_steps, key_last = jax.random.split(key, 3)
  x = graph.sample_prior(key_prior, shape)
  x, _ = run_sampler(key_steps, score_fn, noise, step, times, x, phi=phi, apply_to=apply_to)
  sigma = jnp.broadcast_to(noise.sigma(jnp.asarray(times)[-1]), shape[:1])
  return draw(key_last, denoise_probs(graph, x, score_fn(x, sigma), sigma))
