"""Time to accuracy, against numbers made by hand."""

import math

import pytest

from jdistill.base import UserError
from jdistill.evaluation import time_to_accuracy

TIMES, SCORES = [1.0, 2.0, 4.0, 5.0], [0.5, 0.7, 0.6, 0.9]


@pytest.mark.parametrize(
  ("target", "time"),
  [(0.5, 1.0), (0.4, 1.0), (0.6, 1.5), (0.7, 2.0), (0.75, 4.5), (0.9, 5.0), (0.91, math.inf)],
)
def test_the_first_crossing_counts_between_looks_and_after_preparation(target, time):
  assert time_to_accuracy(TIMES, SCORES, target) == pytest.approx(time)
  assert time_to_accuracy(TIMES, SCORES, target, prepare=3.0) == pytest.approx(time + 3.0)
  errors = [1 - score for score in SCORES]
  assert time_to_accuracy(TIMES, errors, 1 - target, higher=False) == pytest.approx(time)


def test_a_score_that_is_never_reached_takes_for_ever():
  assert time_to_accuracy([], [], 0.5) == math.inf and time_to_accuracy([1.0], [0.1], 0.5, prepare=2.0) == math.inf


@pytest.mark.parametrize(
  ("times", "scores", "words"),
  [([1.0], [0.1, 0.2], "one score per time"), ([2.0, 1.0], [0.1, 0.2], "fall"), ([1.0], [math.nan], "not all finite")],
)
def test_what_is_no_curve_is_refused(times, scores, words):
  with pytest.raises(UserError, match=words) as caught:
    time_to_accuracy(times, scores, 0.5)
  assert "\n" not in str(caught.value)
