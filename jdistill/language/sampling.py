"""One token from logits: temperature, top-k and top-p."""

import jax
import jax.numpy as jnp

from jdistill.base import Key, UserError
from jdistill.ops.precision import widen


def restrict(
  logits: jax.Array, *, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> jax.Array:
  """Logits of the distribution that is sampled from: divided by `temperature`, and -inf where nothing is drawn.

  Top-k comes first; top-p looks at what it has left, as distributed after temperature. Of equal logits the ones with
  lower ids are kept first, so that exactly `top_k` are.

  Args:
    logits: `[..., V]`.
    temperature: above 0.
    top_k: only the `top_k` greatest; `None` for all.
    top_p: only the fewest of the greatest that together have a probability of at least `top_p`; `None` for all.

  Returns:
    `[..., V]` in float32 (float64 where `logits` are).

  Raises:
    UserError: an argument that is out of its range.

  References:
    Fan et al., Hierarchical Neural Story Generation, arXiv:1805.04833 (top-k); Holtzman et al., The Curious Case of
    Neural Text Degeneration, arXiv:1904.09751 (top-p).

  Cost: `top_p` without `top_k` sorts the vocabulary.
  """
  check_restriction(logits.shape[-1], temperature, top_k, top_p)
  if temperature == 0:
    raise UserError("temperature=0: no distribution; take the greatest logit, as `sample` does")
  logits = widen(logits) / temperature
  if top_k is None and top_p is None:
    return logits
  greatest, _ = jax.lax.top_k(logits, logits.shape[-1] if top_k is None else top_k)  # [..., k], falling
  count = jnp.full((*logits.shape[:-1], 1), greatest.shape[-1], jnp.int32)
  if top_p is not None:
    probabilities = jax.nn.softmax(greatest, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    count = jnp.maximum(jnp.sum(before < top_p, axis=-1, keepdims=True, dtype=jnp.int32), 1)
  least = jnp.take_along_axis(greatest, count - 1, axis=-1)
  above, equal = logits > least, logits == least
  spare = count - jnp.sum(above, axis=-1, keepdims=True, dtype=jnp.int32)
  kept = above | (equal & (jnp.cumsum(equal, axis=-1, dtype=jnp.int32) <= spare))
  return jnp.where(kept, logits, -jnp.inf)


def sample(
  keys: Key, logits: jax.Array, *, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Draws one token per row, each with a key of its own; the greatest logit at temperature 0.

  Args:
    keys: `[B]` typed keys.
    logits: `[B, V]` of a model.
    temperature, top_k, top_p: see `restrict`; at temperature 0 the other two change nothing.

  Returns:
    The tokens `[B]` int32 and two log-probabilities of them, `[B]` each: of the distribution sampled from, which is 0
    at temperature 0, and of the model itself, at temperature 1 and without top-k and top-p.

  Raises:
    UserError: an argument that is out of its range.
  """
  check_restriction(logits.shape[-1], temperature, top_k, top_p)
  logits = widen(logits)

  def taken(log_probs: jax.Array) -> jax.Array:
    return jnp.take_along_axis(log_probs, tokens[:, None], axis=1)[:, 0]

  if temperature == 0:
    tokens = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    drawn = jnp.zeros(tokens.shape, logits.dtype)
  else:
    allowed = restrict(logits, temperature=temperature, top_k=top_k, top_p=top_p)
    tokens = jax.vmap(jax.random.categorical)(keys, allowed).astype(jnp.int32)
    drawn = taken(jax.nn.log_softmax(allowed, axis=-1))
  return tokens, drawn, taken(jax.nn.log_softmax(logits, axis=-1))


def check_restriction(vocabulary: int, temperature: float, top_k: int | None, top_p: float | None) -> None:
  """Raises `UserError` for a temperature, top-k or top-p that is out of its range."""
  if not 0 <= temperature < float("inf"):
    raise UserError(f"temperature={temperature}: must be at least 0 and finite; 0 takes the most probable token")
  if top_k is not None and not 1 <= top_k <= vocabulary:
    raise UserError(f"top_k={top_k}: must be from 1 to {vocabulary}, the size of the vocabulary, or None for all")
  if top_p is not None and not 0 < top_p <= 1:
    raise UserError(f"top_p={top_p}: must be above 0 and at most 1, or None for all")
