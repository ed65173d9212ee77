"""Chats as text and as tokens, in the form that SmolLM2-Instruct and Qwen's models are trained on (ChatML)."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jdistill.base import UserError
from jdistill.language.tokenizers import TURN, TURN_END, Tokenizer

SMOLLM2_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
_ROLES = ("system", "user", "assistant")
_ANSWER = "assistant"


def chat_text(
  messages: Sequence[Mapping[str, str]], *, system: str | None = SMOLLM2_SYSTEM, answer: bool = False
) -> str:
  """A chat as one text: `<|im_start|>role`, a line break, the content, `<|im_end|>` and a line break for each message.

  This is what the template inside SmolLM2-Instruct's files gives, without running it. Contents that have the name of a
  special token in them are safe in `chat_tokens` and not here.

  Args:
    messages: each with `role` (`"system"`, `"user"` or `"assistant"`) and `content`.
    system: what comes first where no message of the system does; `None` for nothing.
    answer: whether the beginning of an answer follows, for generation.

  Raises:
    UserError: no messages, another role, or a content that is no text.
  """
  return "".join(piece.text for piece in _pieces(messages, system, answer))


def chat_tokens(
  tokenizer: Tokenizer,
  messages: Sequence[Mapping[str, str]],
  *,
  system: str | None = SMOLLM2_SYSTEM,
  answer: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
  """A chat as tokens, and which of them the assistant writes.

  The tokens of an answer begin behind those of its prompt, as in generation, even where it begins with white space that
  would merge with the line break before it. Special tokens come from the form of the chat and never from its contents.

  Args:
    tokenizer: one with `<|im_start|>` and `<|im_end|>`.
    messages, system, answer: as for `chat_text`.

  Returns:
    Ids `[n]` int32, and a mask `[n]` that is true on the contents of the assistant's messages and on the `<|im_end|>`
    that ends each.

  Raises:
    UserError: as `chat_text`, or a tokeniser without these two tokens.
  """
  missing = [name for name in (TURN, TURN_END) if name not in tokenizer.special]
  if missing:
    raise UserError(f"{tokenizer.name}: has no special token {' and '.join(missing)}; take one that has, or plain text")
  ids, masks = [], []
  for piece in _pieces(messages, system, answer):
    ids.append(np.int32([tokenizer.special[piece.text]]) if piece.special else tokenizer.encode(piece.text))
    masks.append(np.full(len(ids[-1]), piece.written))
  return np.concatenate(ids), np.concatenate(masks)


class _Piece(NamedTuple):
  """Text that is encoded by itself, and whether it is a special token and whether the assistant writes it."""

  text: str
  special: bool = False
  written: bool = False


def _pieces(messages: Sequence[Mapping[str, str]], system: str | None, answer: bool) -> list[_Piece]:
  checked = [_checked(number, message) for number, message in enumerate(messages)]
  if not checked:
    raise UserError("messages: there are none; give at least one with role and content")
  if system is not None and checked[0][0] != "system":
    checked.insert(0, ("system", system))
  pieces = []
  for role, content in checked:
    own = role == _ANSWER
    body = [_Piece(f"{role}\n"), _Piece(content, written=True)] if own else [_Piece(f"{role}\n{content}")]
    pieces += [_Piece(TURN, special=True), *body, _Piece(TURN_END, special=True, written=own), _Piece("\n")]
  return pieces + [_Piece(TURN, special=True), _Piece(f"{_ANSWER}\n")] * answer


def _checked(number: int, message: Mapping[str, str]) -> tuple[str, str]:
  role, content = message.get("role"), message.get("content")
  if role not in _ROLES:
    raise UserError(f"messages[{number}].role={str(role)[:40]!r}: give one of {', '.join(_ROLES)}")
  if not isinstance(content, str):
    raise UserError(f"messages[{number}].content={str(content)[:40]!r}: must be text")
  return role, content
