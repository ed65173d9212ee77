"""Long-tailed data: how many images of each class, who sees them, and what is scored."""

import numpy as np
import pytest

from jdistill.base import Batch, UserError
from jdistill.tasks import Request
from jdistill.tasks.long_tailed import class_sizes, long_tailed, tail_scores

DIGITS = Request("digits", None, None, None, "none", 100, 0)


def test_class_sizes_fall_geometrically():
  assert class_sizes(np.full(10, 500), 50.0, 100).tolist() == [100, 64, 41, 27, 17, 11, 7, 4, 3, 2]
  assert class_sizes(np.full(3, 40), 16.0).tolist() == [40, 10, 2]
  assert class_sizes(np.full(3, 40), 1.0).tolist() == [40, 40, 40]
  assert class_sizes(np.full(4, 3), 1000.0).tolist() == [3, 1, 1, 1]  # never none


def test_the_scarcest_class_decides_how_many_there_are():
  """40 images of the first class would need 20 of the second; there are only 5."""
  assert class_sizes(np.array([40, 5, 40]), 4.0).tolist() == [10, 5, 2]


def test_teachers_and_students_see_the_same_few_and_tests_stay_balanced():
  task = long_tailed(DIGITS, imbalance=20.0, largest=60)
  want = class_sizes(np.full(10, 1000), 20.0, 60)
  np.testing.assert_array_equal(np.bincount(task.data.y), want)
  assert task.teacher is task.data
  for seed in (0, 3):
    np.testing.assert_array_equal(task.members(seed), np.arange(want.sum()))
  assert np.ptp(np.bincount(task.validation.y)) == 0
  assert len(task.test.y) == 500
  assert len(set(task.data.ids.tolist()) & set(task.validation.ids.tolist())) == 0
  assert task.metric == "balanced_accuracy"
  again = long_tailed(DIGITS, imbalance=20.0, largest=60)
  np.testing.assert_array_equal(task.data.ids, again.data.ids)
  other = long_tailed(DIGITS._replace(seed=1), imbalance=20.0, largest=60)
  assert task.data.ids.tolist() != other.data.ids.tolist()
  assert ", ".join(map(str, want)) in task.notes[0]


def test_scores_are_means_over_classes():
  """Class 0: 3 of 4 right, class 1: 1 of 2, class 2: 0 of 1."""
  y = np.array([0, 0, 0, 0, 1, 1, 2])
  said = np.array([0, 0, 0, 1, 1, 2, 0])
  data = Batch(np.eye(3)[said], y, np.arange(7))
  found = tail_scores(np.array([1, 2]))(lambda x: x, data)
  assert found == {
    "balanced_accuracy": pytest.approx((0.75 + 0.5 + 0) / 3),
    "tail_accuracy": pytest.approx(0.25),
    "accuracy": pytest.approx(4 / 7),
  }


@pytest.mark.parametrize(
  ("options", "complaint"),
  [
    ({"imbalance": 0.5}, "task.imbalance=0.5: must be at least 1"),
    ({"largest": 100_000}, "task.largest=100000: these data allow 1 to"),
    ({"tail_classes": 11}, r"task.tail_classes=11: must lie in 1..10"),
  ],
)
def test_what_the_setting_refuses(options, complaint):
  with pytest.raises(UserError, match=complaint):
    long_tailed(DIGITS, **options)
