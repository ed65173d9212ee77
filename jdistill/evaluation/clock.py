"""Time to accuracy: how long it takes until a score is reached, with all that was done before the training."""

import math
from collections.abc import Sequence

import numpy as np

from jdistill.base import UserError


def time_to_accuracy(
  times: Sequence[float], scores: Sequence[float], target: float, *, prepare: float = 0.0, higher: bool = True
) -> float:
  """`prepare + t`, where `t` is the first time at which the score, interpolated between evaluations, is at the target.

  Before the first evaluation nothing is known, so a score that is reached there counts from its time on.

  Args:
    times: of the evaluations, in any unit, ascending: seconds or updates.
    scores: at these times.
    target: what is to be reached.
    prepare: what was spent before time 0, in the same unit: training of proxies, selection, labels.
    higher: whether more of the score is better.

  Returns:
    A time in the same unit; `inf` where no evaluation reaches the target.

  Raises:
    UserError: as many times as scores are not there, times that fall, or numbers that are not finite.

  References:
    Time-to-accuracy of RS2 (Okanovic et al., arXiv 2305.18424), whose competitors' times include their selection.
  """
  times, scores = np.asarray(times, np.float64), np.asarray(scores, np.float64)
  if times.ndim != 1 or times.shape != scores.shape:
    raise UserError(f"scores: shape {scores.shape} for times of shape {times.shape}; give one score per time")
  if not (np.isfinite(times).all() and np.isfinite(scores).all() and math.isfinite(prepare)):
    raise UserError("times, scores: not all finite; leave out what was not measured")
  if (np.diff(times) < 0).any():
    raise UserError(f"times={times.tolist()}: fall; give them in order")
  gaps = (scores - target) if higher else (target - scores)
  reached = np.flatnonzero(gaps >= 0)
  if not len(reached):
    return math.inf
  place = int(reached[0])
  if place == 0:
    return prepare + float(times[0])
  share = -gaps[place - 1] / (gaps[place] - gaps[place - 1])
  return prepare + float(times[place - 1] + share * (times[place] - times[place - 1]))
