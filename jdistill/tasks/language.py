"""Language models of a text, or of responses to prompts: rows of tokens, and the loss on held-out documents."""

import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, NamedTuple

import jax
import numpy as np

from jdistill.base import Batch, UserError
from jdistill.data.text import has_records, read_records, read_text
from jdistill.evaluation.perplexity import bits_per_byte, token_losses
from jdistill.language import Tokenizer, chat_tokens, generate, join, next_tokens, pack
from jdistill.language.tokenizers import END
from jdistill.pretrained import load_tokenizer
from jdistill.schema import Count, NonNegative, Range, validated
from jdistill.tasks.task import Exhibit, Finished, Predict, Request, Task, Text, numbered

_MOST_LOGITS = 2**25  # that are scored at once, 268 MB in float64
_PROBE_TOKENS = 512


class _Documents(NamedTuple):
  tokens: list[np.ndarray]
  counted: list[np.ndarray]  # which of them are to be learned
  kind: str


class _Reading(NamedTuple):
  """How a text becomes documents; see `language`."""

  words: Tokenizer
  context: int
  kind: str
  too_long: str
  template: str
  system: str | None


@validated("task")
def language(
  request: Request,
  *,
  context: Annotated[int, Range(2)] = 128,
  tokenizer: str = "bytes",
  vocabulary: Count | None = None,
  documents: Literal["paragraphs", "lines"] = "paragraphs",
  too_long: Literal["refuse", "drop"] = "refuse",
  template: Literal["plain", "chat"] = "plain",
  system: str | None = None,
  prompt: str | None = None,
  max_new: Count = 48,
  sample_temperature: NonNegative = 0.7,
) -> Task:
  """The next token of a text, or of responses to prompts.

  A text is divided into documents, each between two end tokens. Of equal documents one is kept, so that nothing that is
  held out is trained on (documents that merely resemble each other are all kept). Documents are drawn at random for
  test, validation and training, and packed into rows of `context` tokens; a document sees itself alone. `x` of the
  examples are `jdistill.language.Rows`, `y` `[n, context]` the next tokens, and `mask` `[n, context]` among the extra
  is true where these count: everywhere in a text, and for responses and the end after them in records.

  The score is `nats`, the mean loss per token that counts, with its exponential `perplexity`, and `bits_per_byte`, the
  sum over the bytes that these tokens stand for, which compares tokenisers.

  Args:
    request: `dataset` is `"python"`, `"descriptions"`, FILE.txt, FILE.jsonl with texts `prompt` and `response` in
      every line, or generated: `"markov"`, `"addition"` (see `jdistill.synthetic.generated`). Sizes count rows, so many
      as the documents fill: `train_size` is open for all that are left, and `test_size` for as many as
      `validation_size`. `preprocessing` must be "none".
    context: tokens of a row. Longer documents of a text are cut into pieces that do not see each other.
    tokenizer: `"bytes"`, the bytes of UTF-8; `"smollm2"`, that of the installed SmolLM2; or a `tokenizer.json`, a
      FILE.gguf or a directory with a `tokenizer.json`.
    vocabulary: rows of the models' heads; open for the tokens of the tokeniser, of which there may not be more.
    documents: what a document of a text is: `"paragraphs"`, between empty lines, or `"lines"`.
    too_long: what is done about records of more than `context` tokens.
    template: how records are written: `"plain"`, prompt, response and end token; or `"chat"`, as a chat of user and
      assistant (`jdistill.language.chat_tokens`), for tokenisers that have its tokens.
    system: the first message of a chat; open for none.
    prompt: what every finished model continues for the report, or answers in a chat; open for no such sample.
    max_new: tokens of a sample.
    sample_temperature: of it; 0 takes the likeliest token.

  Raises:
    UserError: a text that is too short for these sizes, or no text; an option out of range; a tokeniser that is not
      there or lacks what it needs.
  """
  if request.preprocessing != "none":
    raise UserError(f"preprocessing={request.preprocessing!r}: text has no pixels; use 'none'")
  words = load_tokenizer(tokenizer, "task.tokenizer")
  if vocabulary is not None and vocabulary < words.size:
    raise UserError(
      f"task.vocabulary={vocabulary}: {tokenizer} has {words.size} tokens; give at least as many, or none"
    )
  reading = _Reading(words, context, documents, too_long, template, system)
  found = _read(request.dataset, reading)
  rng = np.random.default_rng((request.seed, 37))
  train, validation, test = (_rows(found, part, context) for part in _divide(found, request, context, rng))
  counts = [int(part.extra["mask"].sum()) for part in (train, validation, test)]
  exhibit = None if prompt is None else _exhibit(reading, prompt, max_new, sample_temperature)
  return Task(
    data=train,
    members=lambda seed: np.arange(len(train.y)),
    teacher=train,
    validation=validation,
    test=test,
    num_classes=vocabulary or words.size,
    input_shape=(context,),
    kind="tokens",
    score=functools.partial(_score, words, context * (vocabulary or words.size)),
    metric="nats",
    higher=False,
    notes=(
      f"{len(found.tokens):,} different {found.kind}; rows of {context} tokens ({tokenizer}): {len(train.y):,} for "
      f"teacher and students, choices on {len(validation.y):,} held-out ones; test: {len(test.y):,}",
      f"tokens that count: {counts[0]:,}, {counts[1]:,} and {counts[2]:,}",
    ),
    text=Text(words, _probe(words, validation)),
    exhibit=exhibit,
  )


def _score(words: Tokenizer, logits: int, predict: Predict, data: Batch) -> Mapping[str, float]:
  """`logits`: of one row."""
  mask, rows = data.extra["mask"], max(1, min(16, _MOST_LOGITS // logits))
  values = token_losses(predict, data.x, data.y, mask, rows=rows)
  nats = float(np.sum(values) / np.sum(mask))
  found = {"nats": nats, "perplexity": math.exp(min(nats, 700.0))}
  if words.token_bytes is None:
    return found
  return found | {"bits_per_byte": bits_per_byte(values, data.y, mask, words.token_bytes())}


def _probe(words: Tokenizer, held_out: Batch) -> str:
  """The beginning of held-out text."""
  texts, count = [], 0
  for tokens, segments in zip(held_out.x.tokens, held_out.x.segments, strict=True):
    for number in range(1, int(segments.max()) + 1):
      if count < _PROBE_TOKENS:
        texts.append(words.decode(tokens[segments == number], special=False))
        count += int(np.sum(segments == number))
  return "\n\n".join(texts)


def _exhibit(reading: _Reading, prompt: str, max_new: int, temperature: float) -> Exhibit:
  """What models write after a prompt, with the same random numbers for every one."""
  words, end = reading.words, _ends(reading.words)
  if reading.template == "chat":
    start, _ = chat_tokens(words, [{"role": "user", "content": prompt}], system=reading.system, answer=True)
    end = end[0], words.special["<|im_end|>"]
  else:
    start = np.concatenate([[] if end[0] is None else [end[0]], words.encode(prompt)]).astype(np.int32)
  if not len(start) or len(start) + max_new > reading.context:
    raise UserError(
      f"task.prompt={prompt[:40]!r}: has {len(start)} tokens, and task.max_new={max_new} more do not fit "
      f"task.context={reading.context}; shorten them, or give a longer context"
    )

  def write(student: Finished) -> str:
    found = generate(
      student.language, student.params, start[None], jax.random.key(0), max_new=max_new, temperature=temperature,
      end_token=end[1],
    )  # fmt: skip
    tokens, there = (np.asarray(leaf)[0] for leaf in (found.tokens, found.mask))
    return words.decode(tokens[there.astype(bool)], special=False)

  about = f"Every arm's first student on the prompt {prompt!r}, with the same random numbers. Not selected."
  return Exhibit("text", about, write)


def _ends(words: Tokenizer) -> tuple[int | None, int | None]:
  """What stands before and after a document: the end of a text, where there is such a token."""
  end = words.special.get(END)
  return (words.bos, words.eos) if end is None else (end, end)


def _read(dataset: str, reading: _Reading) -> _Documents:
  """All different documents, in their order."""
  words, context = reading.words, reading.context
  if has_records(dataset):
    return _records(dataset, reading)
  if reading.template != "plain":
    raise UserError(
      f"task.template={reading.template!r}: is for records of prompts and responses, and dataset={dataset!r} is a "
      "text; use 'plain', or give FILE.jsonl"
    )
  text = read_text(dataset)
  parts = text.splitlines() if reading.kind == "lines" else re.split(r"\n[^\S\n]*\n", text)
  parts = list(dict.fromkeys(stripped for part in parts if (stripped := part.strip("\n")).strip()))
  before, after = ([] if end is None else [end] for end in _ends(words))
  tokens = [np.concatenate([before, words.encode(part), after]).astype(np.int32) for part in parts]
  total = sum(map(len, tokens))
  if total < context:
    raise UserError(
      f"dataset={dataset!r}: its {total} tokens do not fill one row of task.context={context}; lower it, or give a "
      "longer text"
    )
  return _Documents(tokens, [np.ones(len(one), bool) for one in tokens], reading.kind)


def _records(dataset: str, reading: _Reading) -> _Documents:
  """A prompt, its response and the end token each."""
  context = reading.context
  pairs = list(dict.fromkeys(read_records(dataset, ("prompt", "response"))))
  if not pairs:
    raise UserError(f"dataset={dataset!r}: has no record; give another FILE.jsonl")
  tokens, counted = _written(pairs, reading)
  fits = [len(one) <= context for one in tokens]
  if not all(fits) and reading.too_long == "refuse":
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


def _written(pairs: Sequence[tuple[str, str]], reading: _Reading) -> tuple[list[np.ndarray], list[np.ndarray]]:
  """Records as tokens, and which of these are learned."""
  words = reading.words
  if reading.template == "chat":
    turns = lambda pair: [{"role": r, "content": c} for r, c in zip(("user", "assistant"), pair, strict=True)]  # noqa: E731
    try:
      return tuple(
        map(list, zip(*(chat_tokens(words, turns(pair), system=reading.system) for pair in pairs), strict=True))
      )
    except UserError as error:
      raise UserError(f"task.template='chat': {error}") from error
  if words.eos is None:
    raise UserError(f"task.tokenizer: {words.name} has no token that ends a response; take one that has, or a chat")
  encoded = zip(*([words.encode(text) for text in pair] for pair in pairs), strict=True)
  return join(*encoded, end_token=words.eos)


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
