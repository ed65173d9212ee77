"""Additions that several teachers answer several times: which responses a student learns is for a selector to say."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import numpy as np

from jdistill.base import UserError
from jdistill.language import byte_tokenizer
from jdistill.models.decoder_layers import Rows
from jdistill.schema import Count, Range, Share, validated
from jdistill.selection.responses import Response, check_held_out, quality_filter, verified
from jdistill.synthetic.arithmetic import addition_records, character_codes, check_addition
from jdistill.synthetic.traces import addition_samples
from jdistill.tasks.additions import are_right, rows_of, scorer
from jdistill.tasks.task import Request, Task, Verifier

# How often each teacher is right. The best one is not the easiest to learn from: so the choice has something to find.
SKILLS = {"steps": 0.85, "carry_first": 0.9, "verbose": 0.95, "shuffled": 1.0, "distracting": 0.97}
_SHOWN = 5  # ids in a note


@validated("task")
def candidates(
  request: Request,
  *,
  teachers: tuple[str, ...] = tuple(SKILLS),
  digits: Annotated[int, Range(1, 4)] = 2,
  questions: Count = 800,
  samples: Count = 4,
  easy: Share = 0.75,
) -> Task:
  """Additions with several responses of each of several teachers, all of them verified; held-out ones are hard.

  Programs stand in the place of teachers. A response whose answer is wrong is dropped, and counted for its teacher.
  `domain` of the extra is the teacher, `question` the question, and `own_score` the share of the teacher's responses
  that were right. The score is that of the task `traces`.

  Args:
    request: `dataset` is `"addition"`. `train_size` counts questions, of which `easy` are easy; held-out ones are hard.
    teachers: styles of `jdistill.synthetic.traces`; `SKILLS` has the share of right responses of each.
    digits: of both numbers.
    questions: how many there are in all, before any is held out.
    samples: responses of each teacher to each question.
    easy: share of the training questions that need no carry; the others need one.

  Raises:
    UserError: another data set, unknown teachers or fewer than two, or too few questions for the sizes.
  """
  _check(request, teachers)
  words, rng = byte_tokenizer(), np.random.default_rng((request.seed, 89))
  held = (request.validation_size, request.test_size or request.validation_size)
  pairs = _questions(rng, request, digits, questions, easy, held)
  codes = character_codes(words.decode, words.size, words.eos)

  def asked(own: Sequence[tuple[int, int]], teacher: str, samples: int, skill: float) -> list[Response]:
    options = {"tokenizer": "bytes", "samples": samples, "skill": skill, "seed": request.seed}
    return addition_samples(own, teacher, words.encode, **options)

  test, validation = (asked(own, "steps", 1, 1.0) for own in (pairs[: held[1]], pairs[held[1] : sum(held)]))
  made = {one: asked(pairs[sum(held) :], one, samples, SKILLS[one]) for one in teachers}
  every = [record for records in (*made.values(), validation, test) for record in records]
  context = max(len(one.prompt) + len(one.response) + 1 for one in every)
  kept, scores, notes = _verified(made, lambda records: are_right(records, words, codes))
  check_held_out(kept, [one.prompt for one in [*validation, *test]])
  data = rows_of(kept, words, context)
  own = {
    "question": np.array([one.question for one in kept], np.int32),
    "domain": np.array([teachers.index(one.source) for one in kept], np.int32),
    "own_score": np.array([scores[one.source] for one in kept], np.float32),
  }
  data = data._replace(extra=dict(data.extra) | own)

  def right(rows: Rows, response: np.ndarray) -> np.ndarray:
    return np.asarray(check_addition(rows.tokens, rows.segments > 0, response, codes, scratchpad=True).correct)

  told = ", ".join(f"{one} {score:.3f}" for one, score in scores.items())
  return Task(
    data=data,
    members=lambda seed: np.arange(len(data.y)),
    teacher=data,
    validation=rows_of(validation, words, context),
    test=rows_of(test, words, context),
    num_classes=words.size,
    input_shape=(context,),
    kind="tokens",
    score=scorer(words, codes),
    domains=tuple(teachers),
    verifier=Verifier(words.eos, right),
    notes=(
      f"{len(kept):,} verified responses to {len(pairs) - sum(held):,} questions of {digits} digits, {easy:.0%} "
      f"without a carry; share of right ones by teacher: {told}",
      *notes,
    ),
  )


def _check(request: Request, teachers: tuple[str, ...]) -> None:
  if request.preprocessing != "none" or str(request.dataset) != "addition":
    raise UserError(
      f"dataset={request.dataset!r}, preprocessing={request.preprocessing!r}: the teachers answer additions; set "
      "dataset='addition' and preprocessing='none'"
    )
  if unknown := [one for one in teachers if one not in SKILLS]:
    raise UserError(f"task.teachers: {unknown[0]!r} is no teacher; choose of {', '.join(SKILLS)}")
  if len(set(teachers)) < 2:
    raise UserError(f"task.teachers={teachers}: a choice needs at least two; name more")


def _verified(
  made: Mapping[str, Sequence[Response]], check: Callable[[Sequence[Response]], np.ndarray]
) -> tuple[list[Response], dict[str, float], list[str]]:
  """The right responses of all teachers, the share of right ones by teacher, and notes of questions without any."""
  kept, scores, notes = [], {}, []
  for teacher, records in made.items():
    right = check(records)
    found = quality_filter(verified(records, _told(right)))
    scores[teacher] = float(np.mean(right))
    kept += [records[place] for place in found.index]
    if found.lost:
      shown = ", ".join(map(str, found.lost[:_SHOWN])) + (", ..." if len(found.lost) > _SHOWN else "")
      notes.append(f"{teacher}: no response to {len(found.lost)} questions is right: {shown}")
  return kept, scores, notes


def _told(right: np.ndarray) -> Callable[[Response], float]:
  """A verifier that tells what is known, record after record."""
  rest = iter(right)
  return lambda record: float(next(rest))


def _questions(rng, request: Request, digits: int, questions: int, easy: float, held: tuple[int, int]) -> list:
  """Pairs of numbers: hard ones for test and validation, then easy and hard ones for training, shuffled."""
  pairs = [tuple(map(int, prompt[:-1].split("+"))) for prompt, _ in addition_records(rng, questions, digits=digits)]
  hard = [one for one in pairs if _carries(*one)]
  plain = [one for one in pairs if not _carries(*one)]
  rest = len(hard) - sum(held)
  train = request.train_size
  if train is None:  # as many as there are in this proportion
    sizes = ([rest / (1 - easy)] if easy < 1 else []) + ([len(plain) / easy] if easy > 0 else [])
    train = int(min(sizes))
  counts = round(train * easy), train - round(train * easy)
  if not request.validation_size or train < 1 or counts[0] > len(plain) or counts[1] > rest:
    raise UserError(
      f"train_size={request.train_size}: {counts[0]} easy questions and {sum(held) + counts[1]} hard ones, of which "
      f"{sum(held)} are held out, are not all there among {len(plain)} and {len(hard)} of {digits} digits; change the "
      "sizes, or task.questions and task.digits"
    )
  own = plain[: counts[0]] + hard[sum(held) : sum(held) + counts[1]]
  return hard[: sum(held)] + [own[place] for place in rng.permutation(len(own))]


def _carries(a: int, b: int) -> bool:
  """Whether some place has a carry."""
  return any(int(x) + int(y) > 9 for x, y in zip(str(a)[::-1], str(b)[::-1], strict=False))
