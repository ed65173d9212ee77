"""Language models of a text, or of responses to prompts: rows of tokens, and the loss on held-out documents."""

import re
from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

import jax
import numpy as np

from jdistill.base import Batch, UserError
from jdistill.data.text import has_records, read_records, read_text
from jdistill.evaluation.perplexity import bits_per_byte, token_losses
from jdistill.language import Tokenizer, byte_tokenizer, join, next_tokens, pack
from jdistill.schema import Range, validated
from jdistill.tasks.task import Predict, Request, Task, numbered


class _Documents(NamedTuple):
  tokens: list[np.ndarray]
  counted: list[np.ndarray]  # which of them are to be learned
  kind: str


@validated("task")
def language(
  request: Request,
  *,
  context: Annotated[int, Range(2)] = 128,
  tokenizer: Literal["bytes"] = "bytes",
  documents: Literal["paragraphs", "lines"] = "paragraphs",
  too_long: Literal["refuse", "drop"] = "refuse",
) -> Task:
  """The next token of a text, or of responses to prompts.

  A text is divided into documents, each between two end tokens. Of equal documents one is kept, so that nothing that is
  held out is trained on (documents that merely resemble each other are all kept). Documents are drawn at random for
  test, validation and training, and packed into rows of `context` tokens; a document sees itself alone. `x` of the
  examples are `jdistill.language.Rows`, `y` `[n, context]` the next tokens, and `mask` `[n, context]` among the extra
  is true where these count: everywhere in a text, and for responses and the end after them in records.

  The score is `nats`, the mean loss per token that counts, and `bits_per_byte`, the sum over the bytes that these stand
  for.

  Args:
    request: `dataset` is `"python"`, `"descriptions"`, FILE.txt, FILE.jsonl with texts `prompt` and `response` in
      every line, or generated: `"markov"`, `"addition"` (see `jdistill.synthetic.generated`). Sizes count rows, so many
      as the documents fill: `train_size` is open for all that are left, and `test_size` for as many as
      `validation_size`. `preprocessing` must be "none".
    context: tokens of a row. Longer documents of a text are cut into pieces that do not see each other.
    tokenizer: `"bytes"`, the bytes of UTF-8.
    documents: what a document of a text is: `"paragraphs"`, between empty lines, or `"lines"`.
    too_long: what is done about records of more than `context` tokens.

  Raises:
    UserError: a text that is too short for these sizes, or no text; an option out of range.
  """
  if request.preprocessing != "none":
    raise UserError(f"preprocessing={request.preprocessing!r}: text has no pixels; use 'none'")
  words = byte_tokenizer()
  found = _read(request.dataset, words, context, documents, too_long)
  rng = np.random.default_rng((request.seed, 37))
  train, validation, test = (_rows(found, part, context) for part in _divide(found, request, context, rng))
  token_bytes = np.arange(words.size) < 256

  def score(predict: Predict, data: Batch) -> Mapping[str, float]:
    mask = data.extra["mask"]
    values = token_losses(predict, data.x, data.y, mask)
    return {
      "nats": float(np.sum(values) / np.sum(mask)), "bits_per_byte": bits_per_byte(values, data.y, mask, token_bytes)
    }  # fmt: skip

  counts = [int(part.extra["mask"].sum()) for part in (train, validation, test)]
  return Task(
    data=train,
    members=lambda seed: np.arange(len(train.y)),
    teacher=train,
    validation=validation,
    test=test,
    num_classes=words.size,
    input_shape=(context,),
    kind="tokens",
    score=score,
    metric="nats",
    higher=False,
    notes=(
      f"{len(found.tokens):,} different {found.kind}; rows of {context} tokens ({tokenizer}): {len(train.y):,} for "
      f"teacher and students, choices on {len(validation.y):,} held-out ones; test: {len(test.y):,}",
      f"tokens that count: {counts[0]:,}, {counts[1]:,} and {counts[2]:,}",
    ),
  )


def _read(dataset: str, words: Tokenizer, context: int, kind: str, too_long: str) -> _Documents:
  """All different documents, in their order."""
  if has_records(dataset):
    return _records(dataset, words, context, too_long)
  text = read_text(dataset)
  parts = text.splitlines() if kind == "lines" else re.split(r"\n[^\S\n]*\n", text)
  parts = list(dict.fromkeys(stripped for part in parts if (stripped := part.strip("\n")).strip()))
  tokens = [np.concatenate([[words.bos], words.encode(part), [words.eos]]).astype(np.int32) for part in parts]
  total = sum(map(len, tokens))
  if total < context:
    raise UserError(
      f"dataset={dataset!r}: its {total} tokens do not fill one row of task.context={context}; lower it, or give a "
      "longer text"
    )
  return _Documents(tokens, [np.ones(len(one), bool) for one in tokens], kind)


def _records(dataset: str, words: Tokenizer, context: int, too_long: str) -> _Documents:
  """A prompt, its response and the end token each."""
  pairs = list(dict.fromkeys(read_records(dataset, ("prompt", "response"))))
  if not pairs:
    raise UserError(f"dataset={dataset!r}: has no record; give another FILE.jsonl")
  encoded = zip(*([words.encode(text) for text in pair] for pair in pairs), strict=True)
  tokens, counted = join(*encoded, end_token=words.eos)
  fits = [len(one) <= context for one in tokens]
  if not all(fits) and too_long == "refuse":
    number = fits.index(False)
    raise UserError(
      f"task.context={context}: the record with prompt {pairs[number][0][:40]!r} of {dataset} has "
      f"{len(tokens[number])} tokens, and {len(fits) - sum(fits)} of {len(fits)} are too long; raise it, or set "
      "task.too_long='drop'"
    )
  kept = [(one, own) for one, own, fit in zip(tokens, counted, fits, strict=True) if fit]
  if not kept:
    raise UserError(f"task.context={context}: no record of {dataset} is as short as that; raise it")
  return _Documents(*map(list, zip(*kept, strict=True)), "records")


def _divide(found: _Documents, request: Request, context: int, rng: np.random.Generator) -> list[np.ndarray]:
  """Positions of the documents for training, validation and test."""
  if not request.validation_size:
    raise UserError("validation_size=0: choices and test need documents that nobody is trained on; give some rows")
  sizes = np.array([len(one) for one in found.tokens])
  order = rng.permutation(len(sizes))
  held = [request.validation_size, request.test_size or request.validation_size]
  filled = np.cumsum(sizes[order]) / context  # rows, without those that are not quite full
  first = np.searchsorted(filled, held[0]) + 1
  last = first + np.searchsorted(filled[first:] - filled[min(first, len(order)) - 1], held[1]) + 1
  if last >= len(order):
    raise UserError(
      f"validation_size={request.validation_size}: {sum(held)} rows of {context} tokens would be held out, and the "
      f"{len(sizes):,} {found.kind} fill {filled[-1]:.0f}; hold out fewer, or give "
      + ("a longer text, or task.documents='lines'" if found.kind == "paragraphs" else "more of them")
    )
  validation, test, rest = np.split(order, (first, last))
  if request.train_size is not None:
    rest = rest[: np.searchsorted(np.cumsum(sizes[rest]) / context, request.train_size) + 1]
  return [rest, validation, test]


def _rows(found: _Documents, positions: np.ndarray, context: int) -> Batch:
  """Documents, in their order in the text, as rows with targets."""
  own = np.sort(positions)
  tokens, counted = ([parts[i] for i in own] for parts in (found.tokens, found.counted))
  packed = pack(tokens, context, counted=counted, split=True)
  targets, mask = jax.device_get(next_tokens(packed.rows, packed.counted))
  return numbered(packed.rows, targets, mask=mask)
