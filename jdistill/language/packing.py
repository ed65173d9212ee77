"""Documents as rows of tokens of one length, with boundaries that attention respects; NumPy but for `next_tokens`."""

import bisect
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import UserError
from jdistill.models.decoder_layers import Rows


class Packed(NamedTuple):
  """Documents in rows.

  Attributes:
    rows: what a model takes, `[B, T]` each. A document is one segment; 0 marks padding, which is on the right.
    counted: `[B, T]` bool, whether a token is to be learned: that of a response, of which padding is none.
    documents: `[B, T]` int32, the index of each token's document among those given; -1 for padding.
  """

  rows: Rows
  counted: np.ndarray
  documents: np.ndarray


def join(
  prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], *, end_token: int | None = None
) -> tuple[list[np.ndarray], list[np.ndarray]]:
  """Joins each prompt with its response to a document.

  Args:
    prompts, responses: as many of each, ids of tokens.
    end_token: added to every response that does not end in it; `None` for none.

  Returns:
    The documents, and per document a bool array that is true for the response and its end: `pack` and `pad` take both.

  Raises:
    UserError: other numbers of them, or one that is empty.
  """
  if len(prompts) != len(responses):
    raise UserError(f"responses: {len(responses)} for {len(prompts)} prompts; give one each")
  documents, counted = [], []
  for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
    for name, part in (("prompts", prompt), ("responses", response)):
      if len(part) == 0:
        raise UserError(f"{name}: number {i} is empty; give at least one token, or leave the pair out")
    ended = end_token is None or response[-1] == end_token
    documents.append(np.array([*prompt, *response, *(() if ended else (end_token,))], np.int32))
    counted.append(np.arange(len(documents[-1])) >= len(prompt))
  return documents, counted


def pack(
  documents: Sequence[Sequence[int]],
  length: int,
  *,
  counted: Sequence[np.ndarray] | None = None,
  split: bool = False,
  pad_token: int = 0,
) -> Packed:
  """Puts documents into as few rows as a simple rule finds, none across two rows.

  The rule is best fit: documents by falling length, each into the fullest row that has room for it.

  Args:
    documents: ids of tokens, any numbers of them.
    length: tokens of a row.
    counted: which tokens of each document are to be learned; `None` for all.
    split: whether longer documents are cut into pieces of `length`, which do not see each other.
    pad_token: what fills the rows.

  Returns:
    `Packed`, with rows in the order in which they were opened.

  Raises:
    UserError: a document that is empty or longer than a row, or no token to learn.
  """
  pieces = _pieces(documents, length, counted, split)
  room, free, rows = [], {}, []  # remaining lengths that occur, rows by these, pieces by row
  for piece in sorted(pieces, key=lambda piece: -len(piece.tokens)):
    size = len(piece.tokens)
    place = bisect.bisect_left(room, size)
    if place == len(room):
      row, left = len(rows), length
      rows.append([])
    else:
      left = room[place]
      row = free[left].pop()
      if not free[left]:
        del free[left], room[place]
    rows[row].append(piece)
    left -= size
    if left and left not in free:
      bisect.insort(room, left)
    if left:
      free.setdefault(left, []).append(row)
  return _filled(rows, length, pad_token)


def pad(
  documents: Sequence[Sequence[int]],
  length: int | None = None,
  *,
  counted: Sequence[np.ndarray] | None = None,
  pad_token: int = 0,
) -> Packed:
  """One document per row, in their order; `rows.segments > 0` is the mask that `generate` takes.

  Args:
    documents, counted, pad_token: see `pack`.
    length: tokens of a row; that of the longest document by default.

  Returns:
    `Packed`.

  Raises:
    UserError: a document that is empty or longer than a row, or no token to learn.
  """
  length = max((len(document) for document in documents), default=0) if length is None else length
  return _filled([[piece] for piece in _pieces(documents, length, counted, False)], length, pad_token)


def next_tokens(rows: Rows, counted: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
  """What a model should predict at every position, and where that counts.

  Args:
    rows: `[B, T]` each.
    counted: `[B, T]` bool, the tokens to be learned; `None` for all.

  Returns:
    Targets `[B, T]`, the token after each position, and their mask `[B, T]` bool. The last position of a row, the last
    token of a document and padding have no target.
  """
  rows = Rows(*map(jnp.asarray, rows))
  after = jnp.roll(rows.segments, -1, axis=1).at[:, -1].set(0)
  mask = (rows.segments == after) & (after > 0)
  if counted is not None:
    mask &= jnp.roll(jnp.asarray(counted).astype(bool), -1, axis=1)
  return jnp.roll(rows.tokens, -1, axis=1), mask


class _Piece(NamedTuple):
  document: int
  tokens: np.ndarray
  counted: np.ndarray


def _pieces(documents, length, counted, split) -> list[_Piece]:
  if length < 1:
    raise UserError(f"length={length}: rows must have at least 1 token")
  if counted is not None and len(counted) != len(documents):
    raise UserError(f"counted: {len(counted)} masks for {len(documents)} documents; give one each")
  pieces = []
  for i, document in enumerate(documents):
    tokens = np.asarray(document)
    if tokens.ndim != 1 or not tokens.size or not np.issubdtype(tokens.dtype, np.integer):
      raise UserError(f"documents: number {i} is no list of whole numbers, or empty; give at least one token")
    own = np.ones(len(tokens), bool) if counted is None else np.asarray(counted[i], bool)
    if own.shape != tokens.shape:
      raise UserError(f"counted: mask {i} has shape {own.shape} for a document of {len(tokens)} tokens")
    if len(tokens) > length and not split:
      raise UserError(f"documents: number {i} has {len(tokens)} tokens, more than a row of {length}; cut or split it")
    pieces += [_Piece(i, tokens[j : j + length], own[j : j + length]) for j in range(0, len(tokens), length)]
  if not any(piece.counted.any() for piece in pieces):
    raise UserError(f"counted: no token of {len(documents)} documents is to be learned; the mask is empty")
  return pieces


def _filled(rows: list[list[_Piece]], length: int, pad_token: int) -> Packed:
  shape = (len(rows), length)
  tokens, documents = np.full(shape, pad_token, np.int32), np.full(shape, -1, np.int32)
  segments, positions, counted = np.zeros(shape, np.int32), np.zeros(shape, np.int32), np.zeros(shape, bool)
  for i, row in enumerate(rows):
    start = 0
    for number, piece in enumerate(row, 1):
      place = i, slice(start, start + len(piece.tokens))
      tokens[place], counted[place] = piece.tokens, piece.counted
      segments[place], documents[place] = number, piece.document
      positions[place] = np.arange(len(piece.tokens))
      start += len(piece.tokens)
  return Packed(Rows(tokens, segments, positions), counted, documents)
