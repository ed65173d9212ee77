"""Robust queries: which examples to ask a teacher about who is wrong on some of them, as the solution of a game."""

import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import UserError
from jdistill.ops.checks import known
from jdistill.selection.probabilities import FLOOR


class Robust(NamedTuple):
  """The solution of the game.

  Attributes:
    q: `[n]`, how often each example is asked about on average; its sum is `b`.
    h_star: how many examples have `q > 0`, those of the greatest gains.
    value: the gain that is certain whatever the `m` mistakes are.
  """

  q: jax.Array
  h_star: jax.Array
  value: jax.Array


def rad_distribution(g: jax.Array, m: float, b: float) -> Robust:
  """Query rates with the best gain in the worst case that the teacher's `m` mistakes allow.

      max_q  min_{|E| <= m}  sum_{i not in E} q_i g_i    over  q >= 0,  sum_i q_i = b

  With `g_1 >= ... >= g_n` and `V(h) = (h - m) / sum_{j <= h} 1 / g_j` the solution is `h* = argmax_{h > m} V(h)`,
  `q_i = b (1 / g_i) / sum_{j <= h*} 1 / g_j` for `i <= h*` and 0 for the others, of value `b V(h*)`. All examples that
  are asked about have the same `q_i g_i`, so it does not matter which of them are spoiled. Rates above 1 are possible:
  they are for draws with replacement from `q / b`. `capped_distribution` is for draws without.

  Cost: one sort; `jax.jit` compiles it with `g`, `m` and `b` traced.

  Args:
    g: `[n]` gains, positive; those below `FLOOR` count as `FLOOR`.
    m: how many mistakes the teacher makes on these examples.
    b: how many queries there are, above 0 and at most `n`.

  Returns:
    `Robust`. For `m >= n` nothing is certain: `q` is uniform, the value 0, and a warning says so.

  Raises:
    UserError: gains that are not a vector, not finite or negative; `b` out of range; `m` below 0.

  References:
    Baykal et al., "Robust Active Distillation" (arXiv 2210.01213). The gain and the closed form are a derivation that
    agrees with a linear program; that they are the paper's to the letter is unverified.
  """
  _check(g, m, b)
  return _solve(*(jnp.asarray(value, jnp.float32) for value in (g, m, b)))


@jax.jit
def _solve(g: jax.Array, m: jax.Array, b: jax.Array) -> Robust:
  g, size = jnp.maximum(g, FLOOR), g.shape[0]
  order = jnp.argsort(-g, stable=True)
  inverse = 1 / g[order]
  total, h = jnp.cumsum(inverse), jnp.arange(1, size + 1, dtype=jnp.float32)
  values = jnp.where(h > m, (h - m) / total, -jnp.inf)
  best = jnp.argmax(values)
  rates = jnp.where(jnp.arange(size) <= best, b * inverse / total[best], 0)
  hopeless = m >= size
  q = jnp.where(hopeless, b / size, jnp.zeros(size).at[order].set(rates))
  h_star = jnp.where(hopeless, size, best + 1).astype(jnp.int32)
  return Robust(q, h_star, jnp.where(hopeless, 0.0, b * values[best]))


def capped_distribution(g: np.ndarray, m: int, b: int) -> Robust:
  """The game of `rad_distribution` in which no example is asked about twice: `0 <= q_i <= 1`, exactly.

  Where no rate of `rad_distribution` exceeds 1 it is the same. Else, with `t_i = q_i g_i`, of which the mistakes take
  the `m` greatest, the budget is spent at falling prices (certain gain per query). First `t` rises to `g_{h*}` for the
  `h*` greatest gains. From there on either the next gain comes in, at the price `g_{h + 1}`, or the `k - 1` greatest
  `t`, which are equal, rise from `g_k` to `g_{k - 1}`, at the price `V(k - 1)`. So examples of little gain are asked
  about for certain, those of great gain have equal `q_i g_i`. For `m = 0` these are the `b` greatest gains.

  Cost: two sorts, on the host in float64.

  Args:
    g, m, b: as in `rad_distribution`; `m` and `b` are whole numbers.

  Returns:
    `Robust` of host arrays; for `m >= n` as in `rad_distribution`. Errors are its errors.
  """
  _check(g, m, b)
  g = np.maximum(np.asarray(g, np.float64), FLOOR)
  size = len(g)
  if m >= size:
    return Robust(np.full(size, b / size), np.int64(size), np.float64(0))
  order = np.argsort(-g, kind="stable")
  gains = g[order]
  total, h = np.cumsum(1 / gains), np.arange(1, size + 1)
  values = np.where(h > m, (h - m) / total, -np.inf)
  first = int(np.argmax(values)) + 1  # h*
  more = np.arange(first, size)  # places of gains that may come in
  above = np.arange(first - 1, 0, -1)  # how many rise together
  prices = np.concatenate([gains[more], np.maximum((above - m) / total[above - 1], 0)])
  costs = np.concatenate([np.ones(len(more)), (gains[above - 1] - gains[above]) * total[above - 1]])
  events = np.argsort(-prices, kind="stable")
  start = min(b, gains[first - 1] * total[first - 1])
  spent = np.clip(b - start - (np.cumsum(costs[events]) - costs[events]), 0, costs[events])
  shares = np.zeros(len(prices))
  shares[events] = spent / np.where(costs[events] > 0, costs[events], 1)
  level = start / total[first - 1] + shares[len(more) :] @ (gains[above - 1] - gains[above])
  q = np.zeros(size)
  q[order] = np.concatenate([np.minimum(level / gains[:first], 1), shares[: len(more)]])
  q = np.minimum(q * (b / q.sum()), 1)  # rounding
  return Robust(q, np.int64((q > 0).sum()), start * values[first - 1] + prices[events] @ spent)


def systematic_sample(rng: np.random.Generator, q: np.ndarray, b: int) -> np.ndarray:
  """Draws `b` different examples such that example `i` is drawn with probability exactly `q_i`.

  The rates are laid end to end in random order and read at `u, u + 1, ...`, with one `u` uniform in `[0, 1)`.

  Args:
    rng: decides order and start.
    q: `[n]` in `[0, 1]` with sum `b`.
    b: how many.

  Returns:
    `[b]` int64 positions, ascending.

  Raises:
    UserError: rates out of range, or of another sum.
  """
  q = np.asarray(q, np.float64)
  if q.ndim != 1 or not np.isfinite(q).all() or q.min(initial=0) < 0 or q.max(initial=0) > 1 + 1e-9:
    raise UserError("systematic_sample: rates must be a vector in [0, 1]; cap them with capped_distribution")
  if abs(q.sum() - b) > 1e-6 * max(b, 1):
    raise UserError(f"systematic_sample: rates with a sum of {q.sum():.6g} for {b} queries; scale them to sum {b}")
  certain = np.flatnonzero(q >= 1 - 1e-12)
  order = rng.permutation(np.flatnonzero((q > 0) & (q < 1 - 1e-12)))
  count, start = b - len(certain), rng.random()
  if not count:
    return certain
  ends = np.cumsum(q[order])
  ends *= count / ends[-1]  # rounding
  drawn = np.searchsorted(ends, start + np.arange(count), side="right")
  return np.sort(np.concatenate([certain, order[np.minimum(drawn, len(order) - 1)]]))


def _check(g: jax.Array, m: float, b: float) -> None:
  if np.ndim(g) != 1 or not np.size(g):
    raise UserError(f"rad_distribution: gains of shape {np.shape(g)}; give one per example, [n]")
  size = np.shape(g)[0]
  if known(b) and not 0 < b <= size:
    raise UserError(f"rad_distribution: b={b} queries of {size} examples; give 1 to {size}")
  if known(m) and not m >= 0:
    raise UserError(f"rad_distribution: m={m} mistakes; give 0 or more")
  if known(g) and not (np.isfinite(np.asarray(g)).all() and np.min(g) >= 0):
    raise UserError("rad_distribution: gains must be finite and not negative; look at the student's probabilities")
  if known(m) and m >= size:
    warnings.warn(f"rad_distribution: m={m} mistakes among {size} examples leave nothing to gain: rates are uniform")
