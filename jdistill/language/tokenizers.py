"""Tokenisers as values: bytes, which need nothing, and the contract that byte-pair encodings share with them."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

END, TURN, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (END, TURN, TURN_END)  # of a tokeniser that is made here: end of a document, and of chats
_BYTES = 256


class Tokenizer(NamedTuple):
  """Text to ids and back.

  Attributes:
    name: for messages.
    encode: `(text, *, special=False) -> ids [n]`, int32. With `special` the names of special tokens in the text become
      these tokens; without it they are plain text, so that nobody writes `<|im_end|>` into a prompt and is obeyed.
    decode: `(ids, *, special=True) -> text`. Bytes that are no UTF-8 become U+FFFD, and `special=False` leaves out
      special tokens.
    size: how many ids there are; a model may have more rows than that.
    special: ids of special tokens by name.
    bos, eos, pad: ids of the tokens that begin and end a document and that fill up a batch; `None` for none.
    chat_template: what lies with it, as text that is compared and never run; `""` for none.
    to_json: `() -> text` of a `tokenizer.json` that gives the same ids; `None` where there is no such file.
    token_bytes: `() -> [size]`, how many bytes of text each id stands for, 0 for special tokens; `None` where that is
      not known.
  """

  name: str
  encode: Callable[..., np.ndarray]
  decode: Callable[..., str]
  size: int
  special: Mapping[str, int]
  bos: int | None = None
  eos: int | None = None
  pad: int | None = None
  chat_template: str = ""
  to_json: Callable[[], str] | None = None
  token_bytes: Callable[[], np.ndarray] | None = None


def byte_tokenizer(special_tokens: Sequence[str] = SPECIAL_TOKENS) -> Tokenizer:
  """One token for each of the 256 bytes of UTF-8, and special tokens behind them.

  Args:
    special_tokens: names of the ids from 256 on. `<|endoftext|>`, where it is there, begins, ends and fills up.

  Returns:
    `Tokenizer`. Every text comes back as it was.

  Raises:
    ValueError: a name that is empty or there twice.
  """
  names = tuple(special_tokens)
  if "" in names or len(set(names)) < len(names):
    raise ValueError(f"byte_tokenizer: special_tokens={names!r} has an empty name or one twice")
  special = {name: _BYTES + number for number, name in enumerate(names)}
  pieces = [bytes([value]) for value in range(_BYTES)] + [name.encode() for name in names]
  longest_first = sorted(names, key=len, reverse=True)
  cut = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if names else None

  def encode(text: str, *, special: bool = False) -> np.ndarray:
    parts = cut.split(text) if special and cut else [text]
    return np.concatenate([_of_part(part, number % 2 == 1) for number, part in enumerate(parts)])

  def _of_part(part: str, is_special: bool) -> np.ndarray:
    if is_special:
      return np.int32([ids[part]])
    return np.frombuffer(part.encode(), np.uint8).astype(np.int32)

  def decode(tokens, *, special: bool = True) -> str:
    kept = checked_ids("bytes", tokens, len(pieces))
    return b"".join(pieces[one] for one in kept if special or one < _BYTES).decode(errors="replace")

  ids, end = special, special.get(END)
  token_bytes = lambda: (np.arange(len(pieces)) < _BYTES).astype(np.int64)  # noqa: E731
  return Tokenizer("bytes", encode, decode, len(pieces), special, end, end, end, token_bytes=token_bytes)


def checked_ids(name: str, tokens, size: int) -> list[int]:
  """Ids as a list of whole numbers.

  Raises:
    ValueError: they are not one row of whole numbers in `[0, size)`.
  """
  array = np.asarray(tokens)
  if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
    raise ValueError(f"{name}: ids are one row of whole numbers, not {array.dtype} of shape {array.shape}")
  if array.size and not 0 <= array.min() <= array.max() < size:
    raise ValueError(f"{name}: ids from {array.min()} to {array.max()} are not all in [0, {size})")
  return array.tolist()
