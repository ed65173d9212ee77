"""Which responses of which teacher a student is trained on, by what they do to a student (DED)."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from jdistill.base import UserError
from jdistill.schema import Count, Share
from jdistill.selection.distances import farthest_subset, levenshtein_matrix
from jdistill.selection.evidence import Choice, Evidence, Selector
from jdistill.selection.responses import compress_questions, pass_rate


def best_source(source: np.ndarray, scores: np.ndarray) -> int:
  """The source with the greatest mean score, of equal ones the first.

  Args:
    source: `[n]` integers.
    scores: `[runs, n]`, the same for all examples of a source.
  """
  names, first = np.unique(source, return_index=True)
  return int(names[np.argmax(np.asarray(scores, np.float64).mean(axis=0)[first])])


def diverse(
  rng: np.random.Generator, responses: np.ndarray, count: int, keep: Literal["farthest", "random", "longest"]
) -> np.ndarray:
  """`count` of the responses to one question.

  Args:
    rng: for `"random"`.
    responses: `[T, M]` ids, -1 where there is none.
    count: at most `M`; all are kept if there are no more.
    keep: `"farthest"` is greedy by edit distances (`farthest_subset`), `"longest"` has the most tokens.

  Returns:
    `[min(count, M)]` positions.
  """
  size = responses.shape[1]
  if size <= count:
    return np.arange(size)
  if keep == "random":
    return rng.permutation(size)[:count]
  if keep == "longest":
    return np.argsort(-(responses >= 0).sum(axis=0), kind="stable")[:count]
  return farthest_subset(levenshtein_matrix([column[column >= 0].tolist() for column in responses.T]), count)


def _ded(
  rng: np.random.Generator,
  evidence: Evidence,
  count: int,
  *,
  teacher: Literal["smoke", "own", "any"] = "smoke",
  max_pass: Share = 0.75,
  per_question: Count = 2,
  keep: Literal["farthest", "random", "longest"] = "farthest",
) -> Choice:
  """DED: one teacher, the questions that are not too easy for a student, and diverse responses to each of them.

  Where these are more than `count`, whole questions are drawn, the last one perhaps with fewer responses.

  Args:
    rng, evidence, count: see `Selector`.
    teacher: `"smoke"` is the one whose data made the best student in the smoke test, `"own"` the one with the greatest
      score of its own, `"any"` all of them.
    max_pass: greatest pass rate of the student's roll-outs (the paper's value is not known; unverified).
    per_question: responses to a question at most (unverified).
    keep: which ones: see `diverse`.
  """
  question, source = evidence.origins
  mine = np.ones(len(source), bool)
  if teacher != "any":
    mine = source == best_source(source, evidence.smoke if teacher == "smoke" else evidence.own_scores)
  known, first = np.unique(question[mine], return_index=True)
  rates = pass_rate(evidence.passes[:, np.flatnonzero(mine)[first]].T)
  try:
    hard = compress_questions(rates, max_pass=max_pass)
  except ValueError as error:
    raise UserError(f"select.max_pass={max_pass}: {error}") from error
  most = int(np.bincount(question[mine]).max())
  if per_question > most:
    raise UserError(f"select.per_question={per_question}: no question has more than {most} responses; lower it")
  index: list[int] = []
  for number in rng.permutation(len(hard)):
    if len(index) >= count:
      break
    own = np.flatnonzero(mine & (question == known[hard[number]]))
    index += own[diverse(rng, evidence.responses[:, own], per_question, keep)].tolist()
  if len(index) < count:
    raise UserError(
      f"select.name='ded': {len(hard)} of {len(known)} questions are hard enough and give {len(index)} responses, and "
      f"{count} shall be kept; lower select.per_class or select.fraction, or raise select.max_pass={max_pass}"
    )
  notes = {"questions of the teacher": len(known), "questions that are hard enough": len(hard)}
  return Choice(np.array(index[:count], np.int64), notes=notes)


def _refused(whose: str, size: int, count: int, options: Mapping[str, Any]) -> None:
  if count > size:
    raise UserError(f"select: {count} responses of {size}; lower select.per_class")


TRACES: dict[str, Selector] = {
  "ded": Selector(
    _ded,
    ("origins", "responses", "own_scores", "smoke", "passes"),
    "diverse responses of the teacher whose data suits the student, to questions that it fails",
    "n, and M^2 T^2 for the M responses of a question",
    _refused,
  )
}
