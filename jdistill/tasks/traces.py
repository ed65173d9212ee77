"""Additions that are answered by several sources: which responses a student is trained on, judged by what it writes."""

from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import numpy as np

from jdistill.base import UserError
from jdistill.language import byte_tokenizer
from jdistill.schema import Count, Range, validated
from jdistill.selection.responses import Response, check_held_out, match_tokens, quality_filter, verified
from jdistill.synthetic.arithmetic import addition_records, character_codes
from jdistill.synthetic.traces import STYLES, addition_responses
from jdistill.tasks.additions import are_right, rows_of, scorer
from jdistill.tasks.task import Request, Task

MIXED = "mixed"


@validated("task")
def traces(
  request: Request,
  *,
  source: Literal["answer", "steps", "carry_first", "verbose", "shuffled", "distracting", "mixed"] = "steps",
  digits: Annotated[int, Range(1, 4)] = 2,
  questions: Count = 2000,
  equal: Literal["samples", "tokens"] = "samples",
) -> Task:
  """Additions `a+b=` with responses of one source; sources have the same questions, and all their answers are right.

  The score is `accuracy`: the share of test questions to which the likeliest tokens, written one after the other, are
  readable and have the right answer. `unread` is the share without a readable answer, `tokens` the mean length of what
  is written.

  Args:
    request: `dataset` is `"addition"`. Sizes count questions.
    source: a style of `jdistill.synthetic.traces`; `"mixed"` takes that of a random source for each question, which is
      the control in which sources cannot differ.
    digits: of both numbers.
    questions: how many there are in all.
    equal: whether sources have the same number of questions, or the first ones with the same number of tokens.

  Raises:
    UserError: another data set, or too few questions for the sizes.
  """
  if request.preprocessing != "none" or str(request.dataset) != "addition":
    raise UserError(
      f"dataset={request.dataset!r}, preprocessing={request.preprocessing!r}: the sources answer additions; set "
      "dataset='addition' and preprocessing='none'"
    )
  words, rng = byte_tokenizer(), np.random.default_rng((request.seed, 83))
  pairs = [tuple(map(int, prompt[:-1].split("+"))) for prompt, _ in addition_records(rng, questions, digits=digits)]
  held = [request.validation_size, request.test_size or request.validation_size]
  train = len(pairs) - sum(held) if request.train_size is None else request.train_size
  if not request.validation_size or train < 1 or train + sum(held) > len(pairs):
    raise UserError(
      f"validation_size={request.validation_size}: {sum(held)} questions held out and {train} for training are not all "
      f"there among {len(pairs)} of {digits} digits; change the sizes, or task.questions and task.digits"
    )
  sources = {style: addition_responses(pairs, style, words.encode, tokenizer="bytes") for style in STYLES}
  context = max(len(one.prompt) + len(one.response) + 1 for records in sources.values() for one in records)
  codes = character_codes(words.decode, words.size, words.eos)
  parts = np.split(np.arange(sum(held) + train), np.cumsum(held))
  validation, test, rest = _chosen(sources, source, parts, rng, equal, lambda own: are_right(own, words, codes))
  examples = rows_of(rest, words, context)

  tokens = sum(len(one.response) for one in rest)
  return Task(
    data=examples,
    members=lambda seed: np.arange(len(examples.y)),
    teacher=examples,
    validation=rows_of(validation, words, context),
    test=rows_of(test, words, context),
    num_classes=words.size,
    input_shape=(context,),
    kind="tokens",
    score=scorer(words, codes),
    notes=(f"{len(rest):,} responses of source {source}, {tokens:,} tokens, all verified; {digits} digits",),
  )


def _chosen(
  sources: Mapping[str, list[Response]],
  source: str,
  parts: list[np.ndarray],
  rng: np.random.Generator,
  equal: str,
  check: Callable[[list[Response]], np.ndarray],
) -> list[list[Response]]:
  """Verified records of a source for validation, test and training; of the last as many as are compared."""
  own = _mixed(sources, rng) if source == MIXED else sources[source]
  right = check(own)
  own = verified(own, lambda one: float(right[one.question]))
  validation, test, rest = ([own[place] for place in part] for part in parts)
  check_held_out(rest, [one.prompt for one in [*validation, *test]])
  rest = [rest[place] for place in quality_filter(rest).index]
  if equal == "tokens":  # as many as the shortest source with a trace has
    every = [[records[place] for place in parts[2]] for name, records in sources.items() if name != "answer"]
    budget = min(sum(len(one.response) for one in records) for records in every)
    rest = [rest[place] for place in match_tokens({source: rest}, budget)[source]]
  return [validation, test, rest]


def _mixed(sources: Mapping[str, list[Response]], rng: np.random.Generator) -> list[Response]:
  names = list(sources)
  return [sources[names[rng.integers(len(names))]][place] for place in range(len(sources[names[0]]))]
