"""The exact concrete score of a Markov chain: a teacher without a network, for tests and small experiments."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jdistill.diffusion.discrete.graphs import Graph
from jdistill.ops.precision import widen


def chain_score(graph: Graph, initial: jax.Array, transition: jax.Array) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """The score function of rows `x_0[0] ~ initial`, `x_0[l + 1] ~ transition[x_0[l]]` under noise.

  Noisy rows are observations of a hidden Markov model. A pass forwards and one backwards give
  `c_l(z) = p(x_0[l] = z, all noisy tokens but the l-th)`, and with it

      s_l(y) = sum_z c_l(z) p_sigma(y | z) / sum_z c_l(z) p_sigma(x[l] | z)

  Args:
    graph: the forward process.
    initial: `[V]`, the law of the first token.
    transition: `[V, V]`, rows are the laws of the next token.

  Returns:
    `(x [B, L], sigma [B]) -> [B, L, states]`, exactly 1 at the current token. Rows that the noise cannot have made give
    NaN: an absorbing graph has them.

  Raises:
    ValueError: shapes that do not fit the graph.

  Cost: `L V^2` operations per row, one token after the other.
  """
  initial, transition = widen(initial), widen(transition)
  tokens = graph.tokens
  if initial.shape != (tokens,) or transition.shape != (tokens, tokens):
    raise ValueError(
      f"chain_score: {tokens} tokens need initial ({tokens},) and transition ({tokens}, {tokens}), got "
      f"{initial.shape} and {transition.shape}"
    )

  def scaled(message: jax.Array) -> jax.Array:
    return message / jnp.sum(message, axis=-1, keepdims=True)

  def score(x: jax.Array, sigma: jax.Array) -> jax.Array:
    # p_sigma(y | z) for all hidden z, and of what is there
    kernel = graph.transition(jnp.broadcast_to(jnp.arange(tokens), (x.shape[0], tokens)), sigma).astype(initial.dtype)
    seen = jnp.take_along_axis(kernel, x[:, None, :], axis=2)  # [B, V, L]
    seen = jnp.moveaxis(seen, 2, 0)  # [L, B, V]
    before = jnp.broadcast_to(initial[None], seen.shape[1:])
    after = jnp.ones(seen.shape[1:], initial.dtype)

    def forwards(message, likelihood):
      return scaled((message * likelihood) @ transition), message

    def backwards(message, likelihood):
      return scaled((message * likelihood) @ transition.T), message

    _, left = jax.lax.scan(forwards, before, seen)
    _, right = jax.lax.scan(backwards, after, seen, reverse=True)
    others = jnp.moveaxis(left * right, 0, 1)  # c [B, L, V]
    probs = others @ kernel  # [B, L, states]
    return probs / jnp.take_along_axis(probs, x[..., None], axis=-1)

  return score
