"""Additions with two prompts: a simple one, and one that asks for the steps."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import numpy as np

from jdistill.base import Batch, UserError
from jdistill.language import Tokenizer, byte_tokenizer
from jdistill.schema import Count, Range, validated
from jdistill.selection.responses import Response, check_held_out
from jdistill.synthetic.arithmetic import addition_records, character_codes
from jdistill.synthetic.traces import addition_responses
from jdistill.tasks.additions import rows_of, scorer
from jdistill.tasks.task import Predict, Request, Task

STEPS = "?"  # in front of a problem: with the steps, please


def prompt_pair(a: int, b: int) -> tuple[str, str]:
  """The elaborate prompt of a teacher and the simple one of a student: `("?12+39=", "12+39=")`."""
  return f"{STEPS}{a}+{b}=", f"{a}+{b}="


@validated("task")
def prompt_pairs(
  request: Request,
  *,
  digits: Annotated[int, Range(1, 4)] = 3,
  questions: Count = 5000,
  teacher_size: Count = 2000,
  context: Annotated[int, Range(12)] | None = None,
) -> Task:
  """Additions that a teacher answers with steps where it is asked for them, and without where it is not.

  Teachers learn both kinds of prompts, on problems of their own. Students have the simple prompts, with the answers as
  labels; `teacher_prompt` of the extra is the elaborate prompt. The score is the grid of both prompts: `accuracy`,
  `unread` and `tokens` of the simple one, and the same with `_elaborate` of the other, in which no style is asked for:
  the answer counts.

  Args:
    request: `dataset` is `"addition"`. Sizes count problems.
    digits: of both numbers.
    questions: how many problems there are in all.
    teacher_size: of the teachers.
    context: tokens of a row; open for the longest response.

  Raises:
    UserError: another data set, or sizes that do not fit.
  """
  if request.preprocessing != "none" or str(request.dataset) != "addition":
    raise UserError(
      f"dataset={request.dataset!r}, preprocessing={request.preprocessing!r}: the prompts ask for additions; set "
      "dataset='addition' and preprocessing='none'"
    )
  words, rng = byte_tokenizer(), np.random.default_rng((request.seed, 97))
  pairs = [tuple(map(int, prompt[:-1].split("+"))) for prompt, _ in addition_records(rng, questions, digits=digits)]
  held = [request.validation_size, request.test_size or request.validation_size, teacher_size]
  train = len(pairs) - sum(held) if request.train_size is None else request.train_size
  if not request.validation_size or train < 1 or train + sum(held) > len(pairs):
    raise UserError(
      f"validation_size={request.validation_size}: {sum(held[:2])} problems held out, {teacher_size} of the teacher "
      f"and {train} for students are not all there among {len(pairs)} of {digits} digits; change the sizes, or "
      "task.questions and task.digits"
    )
  direct, steps = (addition_responses(pairs, style, words.encode, tokenizer="bytes") for style in ("answer", "steps"))
  asked = [one._replace(prompt=words.encode(prompt_pair(*pair)[0])) for one, pair in zip(steps, pairs, strict=True)]
  least = max(len(one.prompt) + len(one.response) + 1 for one in asked)
  context = least if context is None else context
  if context < least:
    raise UserError(f"task.context={context}: a prompt and its response have {least} tokens; raise it")
  bounds = np.cumsum([*held, train])
  validation, test, own, students = (direct[end - size : end] for end, size in zip(bounds, [*held, train], strict=True))
  check_held_out([*students, *own], [one.prompt for one in [*validation, *test]])
  teacher = [*own, *asked[bounds[1] : bounds[2]]]
  make = lambda records: _with_prompts(records, pairs, words, context)  # noqa: E731
  data = make(students)
  return Task(
    data=data,
    members=lambda seed: np.arange(len(data.y)),
    teacher=rows_of(teacher, words, context),
    validation=make(validation),
    test=make(test),
    num_classes=words.size,
    input_shape=(context,),
    kind="tokens",
    score=_grid(words),
    notes=(f"{len(students):,} problems of {digits} digits for students, {len(own):,} others for the teacher",),
  )


def _with_prompts(records: Sequence[Response], pairs: Sequence, words: Tokenizer, context: int) -> Batch:
  """Rows of simple prompts and answers, beside the elaborate prompts, which are filled up on the left."""
  data = rows_of(records, words, context)
  prompts = [words.encode(prompt_pair(*pairs[one.question])[0]) for one in records]
  size = max(map(len, prompts))
  filled = np.array([[-1] * (size - len(one)) + list(one) for one in prompts], np.int32)
  return data._replace(extra=dict(data.extra) | {"teacher_prompt": filled})


def _grid(words: Tokenizer) -> Callable[[Predict, Batch], Mapping[str, float]]:
  """The score with both prompts."""
  codes = character_codes(words.decode, words.size, words.eos)
  simple, elaborate = scorer(words, codes), scorer(words, codes, skip=len(STEPS))

  def score(predict: Predict, data: Batch) -> Mapping[str, float]:
    other = elaborate(predict, _asking(data))
    return simple(predict, data) | {f"{name}_elaborate": value for name, value in other.items()}

  return score


def _asking(data: Batch) -> Batch:
  """The examples with their elaborate prompts in the place of the simple ones, and no responses."""
  prompts = np.asarray(data.extra["teacher_prompt"])
  tokens = np.zeros(np.shape(data.y), np.int32)
  sizes = (prompts >= 0).sum(axis=1)
  for row, prompt in zip(tokens, prompts, strict=True):
    own = prompt[prompt >= 0]
    row[: len(own)] = own
  mask = np.arange(tokens.shape[1])[None] >= sizes[:, None] - 1
  return data._replace(x=data.x._replace(tokens=tokens), extra={"mask": mask})
