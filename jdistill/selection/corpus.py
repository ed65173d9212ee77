"""Which chunks of a corpus a language model is trained on, by what two frozen models make of them.

Scores are losses of whole chunks, computed once; what is kept is a list of positions that any student can use.
"""

from typing import Literal

import numpy as np

from jdistill.base import UserError
from jdistill.selection.evidence import Choice, Evidence, Selector


def difference_score(nll_ref: np.ndarray, nll_teacher: np.ndarray) -> np.ndarray:
  """`r(x) = l_ref(x) - l_teacher(x)`, which is `(1 / len) log p_teacher(x) / p_ref(x)` for means per token (MiniPLM).

  About 0 is what both know, far above 0 what is hard and can be learned, below 0 noise.

  Args:
    nll_ref, nll_teacher: `[N]` nats of each chunk, means per valid token or sums.

  Returns:
    `[N]` float64.

  Raises:
    ValueError: arrays of unequal length, empty ones, or values that are not finite.

  References:
    Gu et al., "MiniPLM: Knowledge Distillation for Pre-Training Language Models" (arXiv 2410.17215). Its README prints
    a quotient of logarithms; the code subtracts, as here.
  """
  found = []
  for name, value in (("nll_ref", nll_ref), ("nll_teacher", nll_teacher)):
    array = np.asarray(value, np.float64)
    if array.ndim != 1 or not len(array):
      raise ValueError(f"difference_score: {name} has shape {array.shape}; give one number per chunk")
    if not np.isfinite(array).all():
      place = int(np.argmax(~np.isfinite(array)))
      raise ValueError(f"difference_score: {name} is {array[place]} for chunk {place}")
    found.append(array)
  if len(found[0]) != len(found[1]):
    raise ValueError(f"difference_score: {len(found[0])} scores of the reference, {len(found[1])} of the teacher")
  return found[0] - found[1]


def select_top_fraction(scores: np.ndarray, ratio: float) -> np.ndarray:
  """Positions of the `floor(ratio N)` greatest scores, in ascending order; of equal scores the first are kept.

  Args:
    scores: `[N]`, finite.
    ratio: in `(0, 1]`.

  Returns:
    `[K]` int64, ascending: the kept chunks come in the order of the corpus.

  Raises:
    ValueError: a ratio out of range, scores that are not finite, or none that is kept.
  """
  scores = np.asarray(scores)
  if not 0 < ratio <= 1:
    raise ValueError(f"select_top_fraction: ratio={ratio} must be above 0 and at most 1")
  if scores.ndim != 1 or not np.isfinite(scores).all():
    raise ValueError(f"select_top_fraction: scores of shape {scores.shape} must be finite, one per chunk")
  count = kept_of(len(scores), ratio)
  if not count:
    raise ValueError(f"select_top_fraction: ratio={ratio} keeps none of {len(scores)} chunks; raise it")
  return _greatest(scores, count)


def kept_of(size: int, ratio: float) -> int:
  """`floor(ratio size)`, with `0.29 * 100` as 29."""
  return int(np.floor(ratio * size + 1e-9))


def check_disjoint(reference_ids: np.ndarray, scored_ids: np.ndarray) -> None:
  """Refuses a reference that was trained on what it scores: it is over-fitted to that.

  Raises:
    ValueError: an id is in both.
  """
  both = np.intersect1d(reference_ids, scored_ids)
  if len(both):
    raise ValueError(
      f"check_disjoint: {len(both)} chunks are scored that the reference was trained on, such as {both[0]}"
    )


def separation(scores: np.ndarray, mine: np.ndarray) -> float:
  """The probability that one of some chunks has a greater score than one of the others (AUC); ties count one half.

  Args:
    scores: `[N]`.
    mine: `[N]` bool.

  Raises:
    ValueError: shapes that differ, or none or all chunks are `mine`.
  """
  scores, mine = np.asarray(scores), np.asarray(mine, bool)
  count, others = int(mine.sum()), int((~mine).sum())
  if scores.shape != mine.shape or scores.ndim != 1 or not count or not others:
    raise ValueError(f"separation: scores {scores.shape}, {count} chunks and {others} others; give both")
  _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
  ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
  return float((ranks[mine].sum() - count * (count + 1) / 2) / (count * others))


def flops_matched_steps(
  n_student: int, n_teacher: int, steps: int, method: Literal["vanilla_kd", "minillm", "plain"] = "vanilla_kd"
) -> int:
  """How many steps of a method cost as much as `steps` of plain training of the student.

  A token costs a forward pass `2 n` and a backward pass `4 n`. Vanilla KD adds the teacher's forward pass, hence the
  fraction `3 n_s / (3 n_s + n_t)`; MiniLLM, which also samples, has `3 n_s / (4 n_s + 2 n_t)` (MiniPLM's appendix).

  Args:
    n_student, n_teacher: parameters.
    steps: of plain training.
    method: `"plain"` leaves them as they are.

  Returns:
    The number of steps, rounded, at least 1.

  Raises:
    ValueError: an unknown method, or numbers below 1.
  """
  costs = {
    "plain": 3 * n_student,
    "vanilla_kd": 3 * n_student + n_teacher,
    "minillm": 4 * n_student + 2 * n_teacher,
  }
  if method not in costs or min(n_student, n_teacher, steps) < 1:
    raise ValueError(
      f"flops_matched_steps: method={method!r} must be one of {', '.join(costs)}, and {n_student}, {n_teacher} and "
      f"{steps} at least 1"
    )
  return max(1, round(steps * 3 * n_student / costs[method]))


def _greatest(scores: np.ndarray, count: int) -> np.ndarray:
  return np.sort(np.argsort(-np.asarray(scores), kind="stable")[:count])


def _kept(scores: np.ndarray, count: int) -> Choice:
  index = _greatest(scores, count)
  return Choice(index, value=scores[index])


def chunk_losses(found: np.ndarray, length_normalize: bool, name: str) -> np.ndarray:
  """Nats of each chunk, per token or as a sum.

  Args:
    found: `[2, N]`: summed nats, and tokens that count.
    length_normalize: whether means are taken.
    name: for messages.

  Raises:
    UserError: a chunk without a token that counts.
  """
  total, tokens = np.asarray(found, np.float64)
  if (tokens < 1).any():
    raise UserError(f"evidence.{name}: chunk {int(np.argmax(tokens < 1))} has no token that counts; leave it out")
  return total / tokens if length_normalize else total


def _miniplm(rng: np.random.Generator, evidence: Evidence, count: int, *, length_normalize: bool = True) -> Choice:
  reference, teacher = evidence.reference_losses, evidence.teacher_losses
  if (reference[1] != teacher[1]).any():
    place = int(np.argmax(reference[1] != teacher[1]))
    raise UserError(
      f"evidence.reference_losses: {reference[1][place]:g} tokens of chunk {place}, and the teacher has "
      f"{teacher[1][place]:g}; score with one tokenizer"
    )
  losses = chunk_losses(reference, length_normalize, "reference_losses")
  scores = difference_score(losses, chunk_losses(teacher, length_normalize, "teacher_losses"))
  return _kept(scores, count)


def _teacher_likelihood(
  rng: np.random.Generator, evidence: Evidence, count: int, *, length_normalize: bool = True
) -> Choice:
  return _kept(-chunk_losses(evidence.teacher_losses, length_normalize, "teacher_losses"), count)


def _reference_loss(
  rng: np.random.Generator, evidence: Evidence, count: int, *, length_normalize: bool = True
) -> Choice:
  return _kept(chunk_losses(evidence.reference_losses, length_normalize, "reference_losses"), count)


SCORERS: dict[str, Selector] = {
  "miniplm": Selector(
    _miniplm,
    ("teacher_losses", "reference_losses"),
    "the teacher is far better than a small reference, in the order of the corpus",
    "n",
  ),
  "teacher_likelihood": Selector(_teacher_likelihood, ("teacher_losses",), "the likeliest to the teacher", "n"),
  "reference_loss": Selector(_reference_loss, ("reference_losses",), "the hardest to a small reference", "n"),
}
