"""Markov sources: text whose entropy is known, with an oracle that knows every next symbol's probability."""

import string
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

ALPHABET = string.ascii_letters + string.digits + "+/"  # one character per symbol
MOST_SYMBOLS, _MOST_STATES = len(ALPHABET), 2**20


class MarkovSource(NamedTuple):
  """A stationary source of symbols `0..S-1`, of which each depends on the `order` before it.

  A document has its first symbols from the stationary distribution, so that every part of it is distributed alike.

  Attributes:
    conditionals: for every `j` in `0..order` the probabilities `[S^j, S]` of the next symbol, float64, where the `j`
      symbols before it are all that a document has so far. They are the digits of the row, the latest one last.
  """

  conditionals: tuple[np.ndarray, ...]

  @property
  def order(self) -> int:
    """How many symbols the next one depends on."""
    return len(self.conditionals) - 1

  @property
  def symbols(self) -> int:
    """`S`."""
    return self.conditionals[0].shape[1]


def markov_source(seed: int, *, symbols: int = 16, order: int = 2, concentration: float = 0.3) -> MarkovSource:
  """A random source: the probabilities after every context are drawn from a symmetric Dirichlet distribution.

  Args:
    seed: of the draw, by NumPy.
    symbols: `S`, from 2 to 64.
    order: how many symbols the next one depends on, at least 0; `S^order` is at most `2^20`.
    concentration: of the Dirichlet distribution, above 0: the smaller, the fewer symbols are likely.

  Raises:
    ValueError: an argument out of its range.
  """
  if not 2 <= symbols <= MOST_SYMBOLS:
    raise ValueError(f"markov_source: symbols={symbols} must be from 2 to {MOST_SYMBOLS}")
  if order < 0 or symbols**order > _MOST_STATES:
    raise ValueError(f"markov_source: order={order} must be at least 0 and give at most {_MOST_STATES} contexts")
  if not 0 < concentration < float("inf"):
    raise ValueError(f"markov_source: concentration={concentration} must be above 0 and finite")
  drawn = np.random.default_rng(seed).gamma(concentration, size=(symbols**order, symbols))
  drawn = np.maximum(drawn, 1e-6 * drawn.max(axis=1, keepdims=True))  # every symbol can come, so that all is finite
  return from_transitions(drawn / drawn.sum(axis=1, keepdims=True))


def from_transitions(transitions: np.ndarray) -> MarkovSource:
  """The stationary source with these probabilities of the next symbol.

  Args:
    transitions: `[S^order, S]`, all above 0, rows sum to 1; see `MarkovSource.conditionals`.

  Raises:
    ValueError: other shapes, or rows that are no distributions.
  """
  transitions = np.asarray(transitions, np.float64)
  contexts, symbols = transitions.shape if transitions.ndim == 2 else (0, 0)
  order = round(np.log(max(contexts, 1)) / np.log(symbols)) if symbols > 1 else -1
  if order < 0 or symbols**order != contexts:
    raise ValueError(f"from_transitions: shape {transitions.shape} is not [S^order, S] with S of at least 2")
  if not (transitions > 0).all() or np.abs(transitions.sum(1) - 1).max() > 1e-9:
    raise ValueError("from_transitions: every row must be a distribution whose probabilities are all above 0")
  found = [transitions]
  joint = _stationary(transitions, order)  # of `order` symbols in a row
  for _ in range(order):
    joint = joint.reshape(-1, symbols)
    found.append(joint / joint.sum(1, keepdims=True))
    joint = joint.sum(1)
  return MarkovSource(tuple(reversed(found)))


def _stationary(transitions: np.ndarray, order: int) -> np.ndarray:
  """Probabilities `[S^order]` of contexts, the same one symbol later."""
  contexts, symbols = transitions.shape
  joint = np.full(contexts, 1 / contexts)
  for _ in range(100_000 if order else 0):
    after = (joint[:, None] * transitions).reshape(symbols, contexts).sum(0)  # the oldest symbol is forgotten
    after /= after.sum()
    if np.abs(after - joint).max() < 1e-15:
      break
    joint = after
  return joint


def sample_markov(source: MarkovSource, rng: np.random.Generator, count: int, length: int) -> np.ndarray:
  """Draws documents.

  Args:
    source: what is drawn from.
    rng: of NumPy.
    count: how many documents.
    length: symbols of each.

  Returns:
    `[count, length]` int32.
  """
  found = np.zeros((count, length), np.int32)
  context = np.zeros(count, np.int64)
  for t in range(length):
    cumulative = np.cumsum(source.conditionals[min(t, source.order)], axis=1)[context]
    drawn = (rng.random(count)[:, None] * cumulative[:, -1:] >= cumulative[:, :-1]).sum(1)
    found[:, t] = drawn
    context = (context * source.symbols + drawn) % source.symbols ** min(t + 1, source.order)
  return found


def markov_text(documents: np.ndarray) -> list[str]:
  """Symbols `[count, length]` as texts, a character of `ALPHABET` each."""
  return ["".join(ALPHABET[symbol] for symbol in document) for document in np.asarray(documents)]


def next_log_probs(source: MarkovSource, documents: np.ndarray) -> np.ndarray:
  """Log-probabilities of every next symbol.

  Args:
    source: that the documents come from.
    documents: `[count, length]` symbols.

  Returns:
    `[count, length + 1, S]` float64: before every symbol, and after the last one.
  """
  documents = np.asarray(documents)
  count, length = documents.shape
  found, context = np.empty((count, length + 1, source.symbols)), np.zeros(count, np.int64)
  for t in range(length + 1):
    found[:, t] = np.log(source.conditionals[min(t, source.order)][context])
    if t < length:
      context = (context * source.symbols + documents[:, t]) % source.symbols ** min(t + 1, source.order)
  return found


def document_entropy(source: MarkovSource, length: int) -> float:
  """The entropy of a document of `length` symbols in nats: the sum of its losses under the oracle, in expectation."""
  total, joint = 0.0, np.ones(1)
  for t in range(length):
    after = joint[:, None] * source.conditionals[min(t, source.order)]
    total -= float(np.sum(after * np.log(source.conditionals[min(t, source.order)])))
    joint = after.reshape(-1, source.symbols ** min(t + 1, source.order)).sum(0)
  return total


def entropy_rate(source: MarkovSource) -> float:
  """Nats per symbol, far from the beginning of a document."""
  order = source.order
  return document_entropy(source, order + 1) - document_entropy(source, order)


class Oracle(NamedTuple):
  """A source as a model of rows of tokens; all leaves are arrays.

  Attributes:
    conditionals: log-probabilities of all orders, one below the other, `[sum_j S^j, S]` float32.
    ids: `[S]` int32, the token of each symbol.
    symbol_of: `[V]` int32, the symbol of each token; -1 for others.
    end_token: scalar int32, which ends a document.
    length: scalar int32, symbols of a document.
  """

  conditionals: jax.Array
  ids: jax.Array
  symbol_of: jax.Array
  end_token: jax.Array
  length: jax.Array


def markov_oracle(source: MarkovSource, ids: np.ndarray, vocabulary: int, end_token: int, length: int) -> Oracle:
  """The oracle of documents of `length` symbols, after which `end_token` comes with certainty.

  Args:
    source: that the documents come from.
    ids: `[S]`, the token of each symbol, all different.
    vocabulary: `V`, tokens in all.
    end_token: none of the ids.
    length: symbols of a document.

  Raises:
    ValueError: ids that are not as many, different and within the vocabulary.
  """
  ids = np.asarray(ids, np.int32)
  named = np.append(ids, end_token)
  if ids.shape != (source.symbols,) or len(set(named.tolist())) < len(named) or not (
    0 <= named.min() <= named.max() < vocabulary
  ):  # fmt: skip
    raise ValueError(f"markov_oracle: give {source.symbols} different ids below {vocabulary}, and another as the end")
  symbol_of = np.full(vocabulary, -1, np.int32)
  symbol_of[ids] = np.arange(len(ids))
  table = np.log(np.concatenate(source.conditionals)).astype(np.float32)
  return Oracle(*map(jnp.asarray, (table, ids, symbol_of, np.int32(end_token), np.int32(length))))


def oracle_logits(oracle: Oracle, tokens: jax.Array, segments: jax.Array, *, order: int) -> jax.Array:
  """Exact log-probabilities of the next token, as a network would give them.

  A document is a segment of a row. Tokens that are no symbols, such as one that begins a document, do not count towards
  its length. After its last symbol, and after a document that is longer than `length`, comes the end.

  Args:
    oracle: see `markov_oracle`.
    tokens: `[B, T]` int.
    segments: `[B, T]` int, the same number within a document, 0 for padding.
    order: of the source.

  Returns:
    `[B, T, V]` float32; -1e30 where a token cannot come. Rows of probabilities of padding mean nothing.
  """
  size, vocabulary = oracle.ids.shape[0], oracle.symbol_of.shape[0]
  symbols = oracle.symbol_of[jnp.clip(tokens, 0, vocabulary - 1)]
  real = (symbols >= 0) & (segments > 0)
  total = jnp.cumsum(real, axis=1, dtype=jnp.int32)
  first = segments != jnp.pad(segments, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
  # symbols of the documents before in this row
  before = jax.lax.cummax(jnp.where(first, total - real.astype(jnp.int32), 0), axis=1)
  seen = total - before
  # the latest symbols are digits of the context; `place` says where the symbol number n of a row stands
  width = tokens.shape[1]
  rank = jnp.where(real, total - 1, width)
  places = jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32), rank.shape)
  place = jnp.put_along_axis(jnp.zeros((rank.shape[0], width + 1), jnp.int32), rank, places, axis=1, inplace=False)
  context = jnp.zeros_like(tokens)
  for back in range(min(order, tokens.shape[1])):
    at = jnp.take_along_axis(place, jnp.maximum(total - 1 - back, 0), axis=1)
    digit = jnp.take_along_axis(symbols, at, axis=1)
    context = context + jnp.where(back < seen, digit, 0) * size**back
  known = jnp.minimum(seen, order)
  offset = sum(jnp.where(known > j, size**j, 0) for j in range(order)) if order else 0
  shape = (*tokens.shape, vocabulary)
  found = jnp.full(shape, -1e30, jnp.float32).at[..., oracle.ids].set(oracle.conditionals[context + offset])
  only_end = jnp.full(vocabulary, -1e30, jnp.float32).at[oracle.end_token].set(0.0)
  return jnp.where((seen >= oracle.length)[..., None], only_end, found)
