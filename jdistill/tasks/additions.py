"""What tasks of additions share: records as rows of tokens, whether they are right, and a score of what is written."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from jdistill.base import Batch
from jdistill.language import Tokenizer, join, next_tokens, pad
from jdistill.models.decoder_layers import Rows
from jdistill.selection.responses import Response
from jdistill.synthetic.arithmetic import check_addition
from jdistill.tasks.task import Predict, numbered


def rows_of(records: Sequence[Response], words: Tokenizer, context: int) -> Batch:
  """Examples with one record to a row; `mask` says which targets are of a response."""
  documents, counted = join([one.prompt for one in records], [one.response for one in records], end_token=words.eos)
  padded = pad(documents, context, counted=counted)
  targets, mask = jax.device_get(next_tokens(padded.rows, padded.counted))
  return numbered(padded.rows, targets, mask=mask)


def are_right(records: Sequence[Response], words: Tokenizer, codes: np.ndarray) -> np.ndarray:
  """What the checker says of every record, `[n]`."""
  documents, counted = join([one.prompt for one in records], [one.response for one in records], end_token=words.eos)
  padded = pad(documents, None, counted=counted)
  verdict = check_addition(
    np.asarray(padded.rows.tokens),
    np.asarray(padded.rows.segments) > 0,
    np.asarray(padded.counted),
    codes,
    scratchpad=True,
  )
  return np.asarray(verdict.correct)


def scorer(words: Tokenizer, codes: np.ndarray, *, skip: int = 0) -> Callable[[Predict, Batch], dict[str, float]]:
  """`accuracy`, `unread` and `tokens` of what a network writes to the prompts of some examples.

  Args:
    words: tokeniser of the examples.
    codes: see `character_codes`.
    skip: tokens before the problem, which the checker does not read.
  """

  def score(predict: Predict, data: Batch) -> dict[str, float]:
    written, responded = _write(predict, data, words.eos)
    there = np.arange(written.shape[1])[None] < _ends(written, responded, words.eos)[:, None]
    read = (written[:, skip:], there[:, skip:], (responded & there)[:, skip:])
    found = check_addition(*read, codes, scratchpad=True)
    lengths = (responded & there).sum(axis=1)
    return {
      "accuracy": float(np.mean(found.correct)),
      "unread": float(1 - np.mean(found.readable)),
      "tokens": float(np.mean(lengths)),
    }

  return score


def _write(predict: Predict, data: Batch, end: int) -> tuple[np.ndarray, np.ndarray]:
  """Prompts, continued by the likeliest tokens up to the end of the row: ids `[n, T]`, and which were written."""
  tokens = np.array(data.x.tokens)
  mask = np.asarray(data.extra["mask"])
  responded = np.arange(tokens.shape[1])[None] > mask.argmax(axis=1)[:, None]
  tokens = np.where(responded, 0, tokens)
  segments = np.ones_like(np.asarray(data.x.segments))
  positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
  done = np.zeros(len(tokens), bool)
  for place in range(int(responded.argmax(axis=1).min()), tokens.shape[1]):
    found = np.argmax(predict(Rows(tokens, segments, positions))[:, place - 1], axis=-1)
    tokens[:, place] = np.where(responded[:, place], found, tokens[:, place])
    done |= responded[:, place] & (tokens[:, place] == end)
    if done.all():
      break
  return tokens, responded


def _ends(tokens: np.ndarray, responded: np.ndarray, end: int) -> np.ndarray:
  """How many tokens of every row there are until the first end that was written, with it; all where there is none."""
  ended = responded & (tokens == end)
  return np.where(ended.any(axis=1), ended.argmax(axis=1) + 1, tokens.shape[1])
