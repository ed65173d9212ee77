"""Responses of teachers as records: which are right, which questions are worth asking, and what sources have in common.

Host code in NumPy. A record is one prompt, one response, and where the response is from.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Response(NamedTuple):
  """One response of a teacher.

  Attributes:
    question: id of the prompt, the same in all sources.
    prompt, response: ids of tokens, or texts.
    source: name of the teacher.
    seed, temperature: it was sampled with.
    score: what a verifier says, in [0, 1]; `None` before it has looked.
    truncated: whether sampling ended before the response did.
    tokenizer: identity of the tokeniser that lengths are counted in.
  """

  question: int
  prompt: Sequence
  response: Sequence
  source: str = ""
  seed: int = 0
  temperature: float = 1.0
  score: float | None = None
  truncated: bool = False
  tokenizer: str = ""


class Kept(NamedTuple):
  """What a filter keeps.

  Attributes:
    index: positions of the records that are kept, ascending.
    dropped: how many were dropped, by reason; a record counts for the first reason that holds.
    lost: ids of questions of which no record is left, ascending.
  """

  index: np.ndarray
  dropped: Mapping[str, int]
  lost: tuple[int, ...]


def verified(records: Sequence[Response], verify: Callable[[Response], float]) -> list[Response]:
  """The records with the scores of a verifier.

  Raises:
    ValueError: a score outside of [0, 1].
  """
  out = []
  for place, record in enumerate(records):
    score = float(verify(record))
    if not 0 <= score <= 1:
      raise ValueError(f"verified: the verifier gives {score} for record {place}; give a number from 0 to 1")
    out.append(record._replace(score=score))
  return out


def quality_filter(
  records: Sequence[Response],
  *,
  least_score: float = 0.9,
  most_tokens: int | None = None,
  least_tokens: int = 1,
  well_formed: Callable[[Sequence], bool] | None = None,
  repetition: tuple[int, float] | None = None,
) -> Kept:
  """Keeps responses that are whole, of a fitting length, well formed, right, and do not repeat themselves.

  Args:
    records: of `verified`.
    least_score: of the verifier.
    most_tokens, least_tokens: of a response.
    well_formed: whether a response has the form that is asked for, such as one block of thoughts and then an answer.
    repetition: `(n, most)`: greatest `repetition_ratio` over n-grams.

  Raises:
    ValueError: no records, one without a score, or a filter that leaves nothing.
  """
  if not records:
    raise ValueError("quality_filter: no records")
  unscored = [place for place, record in enumerate(records) if record.score is None]
  if unscored:
    raise ValueError(f"quality_filter: record {unscored[0]} has no score; verify first")
  reasons = [_reason(record, least_score, most_tokens, least_tokens, well_formed, repetition) for record in records]
  index = np.array([place for place, reason in enumerate(reasons) if not reason], np.int64)
  dropped = dict(Counter(reason for reason in reasons if reason))
  if not len(index):
    told = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
    raise ValueError(f"quality_filter: none of {len(records)} records is left ({told}); loosen a filter")
  kept = {records[place].question for place in index}
  return Kept(index, dropped, tuple(sorted({record.question for record in records} - kept)))


def _reason(record, least_score, most_tokens, least_tokens, well_formed, repetition) -> str:
  size = len(record.response)
  if record.truncated:
    return "truncated"
  if size < least_tokens:
    return "empty" if not size else "short"
  if most_tokens is not None and size > most_tokens:
    return "long"
  if well_formed is not None and not well_formed(record.response):
    return "malformed"
  if record.score < least_score:
    return "wrong"
  if repetition is not None and repetition_ratio(record.response, repetition[0]) > repetition[1]:
    return "repetitive"
  return ""


def repetition_ratio(tokens: Sequence, n: int) -> float:
  """`1 - different n-grams / n-grams`; 0 for sequences without an n-gram.

  Raises:
    ValueError: `n` below 1.
  """
  if n < 1:
    raise ValueError(f"repetition_ratio: n={n} must be at least 1")
  grams = [tuple(tokens[place : place + n]) for place in range(len(tokens) - n + 1)]
  return 1 - len(set(grams)) / len(grams) if grams else 0.0


def pass_rate(rewards: np.ndarray) -> np.ndarray:
  """The share of right samples of every question.

  Args:
    rewards: `[N, G]` in [0, 1], `G` samples of the student for each question.

  Returns:
    `[N]` float64.

  Raises:
    ValueError: another shape, one sample only (0 and 1 are all that it can tell), or values out of range.
  """
  rewards = np.asarray(rewards, np.float64)
  if rewards.ndim != 2 or rewards.shape[1] < 2:
    raise ValueError(f"pass_rate: rewards {rewards.shape}; give [N, G] with at least 2 samples of each question")
  if not ((rewards >= 0) & (rewards <= 1)).all():
    raise ValueError("pass_rate: rewards must be from 0 to 1")
  return rewards.mean(axis=1)


def compress_questions(rates: np.ndarray, *, max_pass: float, min_pass: float = 0.0) -> np.ndarray:
  """Positions of the questions that are not too easy for the student, ascending (DED).

  Args:
    rates: `[N]` of `pass_rate`; of the student, not of the teacher.
    max_pass: greatest rate that is kept (the paper's value is not known; unverified).
    min_pass: least rate that is kept.

  Raises:
    ValueError: nothing is kept.

  References:
    Beyond Scaling Law: A Data-Efficient Distillation Framework for Reasoning, arXiv 2508.09883.
  """
  rates = np.asarray(rates, np.float64)
  kept = np.flatnonzero((rates <= max_pass) & (rates >= min_pass))
  if not len(kept):
    raise ValueError(
      f"compress_questions: max_pass={max_pass} and min_pass={min_pass} drop all {len(rates)} questions, whose rates "
      f"are {rates.min() if len(rates) else float('nan'):.3g} to {rates.max() if len(rates) else float('nan'):.3g}"
    )
  return kept


def matched_intersection(sources: Mapping[str, Sequence[Response]], *, least: float = 0.1) -> np.ndarray:
  """Ids of the questions that every source has a record of, ascending.

  Args:
    sources: records by the name of the source.
    least: smallest share of the questions of the smallest source that must be left.

  Raises:
    ValueError: fewer than two sources, other tokenisers, sources over different questions, or an intersection below
      `least`.
  """
  if len(sources) < 2:
    raise ValueError(f"matched_intersection: {len(sources)} source; give at least 2")
  _one_tokenizer(sources)
  own = {name: {record.question for record in records} for name, records in sources.items()}
  empty = [name for name, ids in own.items() if not ids]
  if empty:
    raise ValueError(f"matched_intersection: {empty[0]} has no records")
  common = set.intersection(*own.values())
  smallest = min(own, key=lambda name: len(own[name]))
  if not common:
    raise ValueError(f"matched_intersection: {' and '.join(own)} answer different questions; ask all the same ones")
  if len(common) < least * len(own[smallest]):
    raise ValueError(
      f"matched_intersection: {len(common)} common questions of {len(own[smallest])} of {smallest}: less than "
      f"least={least}; verify fewer away, or sample more"
    )
  return np.array(sorted(common), np.int64)


def match_tokens(sources: Mapping[str, Sequence[Response]], budget: int | None = None) -> dict[str, np.ndarray]:
  """Positions of the first records of every source that together have at most as many tokens of responses.

  Args:
    sources: records by source; their order decides, so shuffle them alike.
    budget: tokens of each; `None` for those of the source with the fewest.

  Raises:
    ValueError: other tokenisers, or a budget that the first record of a source exceeds.
  """
  _one_tokenizer(sources)
  sizes = {name: np.cumsum([len(record.response) for record in records]) for name, records in sources.items()}
  budget = min(int(total[-1]) for total in sizes.values()) if budget is None else budget
  out = {name: np.arange(int(np.searchsorted(total, budget, side="right"))) for name, total in sizes.items()}
  short = [name for name, index in out.items() if not len(index)]
  if short:
    raise ValueError(f"match_tokens: budget={budget} is less than the first response of {short[0]}; raise it")
  return out


def _one_tokenizer(sources: Mapping[str, Sequence[Response]]) -> None:
  found = {record.tokenizer for records in sources.values() for record in records}
  if len(found) > 1:
    names = " and ".join(repr(one) for one in sorted(found))
    raise ValueError(f"sources: lengths are counted by the tokenizers {names}; encode all with one")


def check_held_out(records: Sequence[Response], held_out: Sequence[Sequence]) -> None:
  """Refuses records whose prompts are among those of the test.

  Raises:
    ValueError: how many, and the first.
  """
  test = {tuple(prompt) for prompt in held_out}
  both = [record for record in records if tuple(record.prompt) in test]
  if both:
    raise ValueError(
      f"check_held_out: {len(both)} records answer prompts of the test, such as question {both[0].question}; take "
      "prompts of the training split alone"
    )
