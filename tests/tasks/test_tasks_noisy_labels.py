"""Wrong labels where they are said to be, and held-out examples that are nobody's training examples."""

import numpy as np
import pytest

from jdistill.base import Batch, UserError
from jdistill.tasks import Request
from jdistill.tasks.noisy_labels import noisy_labels
from jdistill.tasks.overlap import refuse_overlap


def request(**changes):
  return Request("digits", None, None, None, "standardize", 200, 0)._replace(**changes)


def flipped(labels, clean):
  """Share of wrong labels per class."""
  return np.array([np.mean(labels[clean == c] != c) for c in range(10)])


def test_each_half_of_the_classes_has_its_own_mistakes():
  task = noisy_labels(request())
  clean = task.data.extra["clean_labels"]
  students, teachers = flipped(task.data.y, clean), flipped(task.teacher.y, clean)
  noisy, wrong = np.flatnonzero(students), np.flatnonzero(teachers)
  assert len(noisy) == len(wrong) == 5 and not set(noisy) & set(wrong)
  # 110 examples per class, 550 in all: three standard deviations of a binomial mean
  assert abs(students[noisy].mean() - 0.4) < 3 * np.sqrt(0.24 / 550)
  assert abs(teachers[wrong].mean() - 0.8) < 3 * np.sqrt(0.16 / 550)
  targets = task.data.y[(task.data.y != clean)]
  assert len(np.unique(targets)) == 10  # symmetric: to any class
  for c in wrong:  # systematic: to one class, of the same half
    seen = np.unique(task.teacher.y[clean == c])
    assert len(seen) == 2 and set(seen) <= set(wrong)
  assert (task.validation.y == noisy_labels(request(), label_noise=0.0).validation.y).all()


def test_no_noise_leaves_all_labels_alone():
  task = noisy_labels(request(), label_noise=0.0, teacher_noise=0.0, student_size=None)
  np.testing.assert_array_equal(task.data.y, task.data.extra["clean_labels"])
  np.testing.assert_array_equal(task.teacher.y, task.data.y)
  np.testing.assert_array_equal(task.members(3), np.arange(1097))


def test_students_are_balanced_over_the_right_classes_and_differ():
  task = noisy_labels(request(), student_size=100)
  first, second = task.members(0), task.members(1)
  assert (np.bincount(task.data.extra["clean_labels"][first]) == 10).all()
  assert set(first) != set(second)
  np.testing.assert_array_equal(first, task.members(0))


def test_a_control_trains_on_the_held_out_examples():
  task = noisy_labels(request(), trains_on="held_out")
  np.testing.assert_array_equal(task.data.x, task.validation.x)
  np.testing.assert_array_equal(task.data.y, task.validation.y)
  assert len(task.members(5)) == 200


def test_scores_by_half():
  task = noisy_labels(request())
  test = task.test
  noisy = set(np.flatnonzero(flipped(task.data.y, task.data.extra["clean_labels"])))
  guess = np.where(np.isin(test.y, list(noisy)), test.y, 0)  # right in the noisy half
  wrong_half = np.mean(test.y[~np.isin(test.y, list(noisy))] == 0)
  scores = task.score(lambda x: 5.0 * np.eye(10)[guess], test)
  assert scores["noisy_half"] == 1.0 and scores["wrong_half"] == pytest.approx(wrong_half)
  assert scores["accuracy"] == pytest.approx(np.mean(guess == test.y)) and len(scores) == 3


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"label_noise": 1.5}, r"task.label_noise=1.5: must be at most 1"),
    ({"teacher_noise": -0.1}, r"task.teacher_noise=-0.1"),
    ({"trains_on": "test"}, r"task.trains_on='test': unknown; choose one of held_out, noisy"),
  ],
)
def test_bad_options_are_refused(options, message):
  with pytest.raises(UserError, match=message):
    noisy_labels(request(), **options)


def test_duplicates_between_training_and_validation_are_refused(tmp_path):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (40, 4, 4), dtype=np.uint8)
  images[20:] = images[:20]  # every image twice
  labels = np.tile(np.arange(4), 10)
  path = tmp_path / "twice.npz"
  np.savez(path, x_train=images, y_train=labels, x_test=images[:8], y_test=labels[:8])
  with pytest.raises(UserError, match=r"validation: \d+ of 8 held-out examples are training examples, too") as caught:
    noisy_labels(request(dataset=str(path), validation_size=8), student_size=8)
  assert "\n" not in str(caught.value)


def test_refuse_overlap():
  x = np.random.default_rng(1).normal(size=(6, 2)).astype(np.float32)
  data = lambda rows: Batch(x[rows], np.zeros(len(rows), np.int32), np.arange(len(rows), dtype=np.int32))  # noqa: E731
  refuse_overlap(data([0, 1, 2]), data([3, 4]))  # the same names, other examples
  with pytest.raises(
    UserError, match=r"1 of 2 held-out examples are training examples, too \(held-out 1 is training 2"
  ):
    refuse_overlap(data([0, 1, 2]), data([3, 2]))
  for nothing in (None, data([])):
    with pytest.raises(UserError, match="validation: no held-out examples"):
      refuse_overlap(data([0]), nothing)


def test_all_classes_can_be_noisy_and_then_no_teacher_is_wrong():
  task = noisy_labels(request(), label_noise=0.3, noisy_classes="all", trains_on="noisy")
  wrong = task.data.y != task.data.extra["clean_labels"]
  assert abs(wrong.mean() - 0.3) < 3 * np.sqrt(0.21 / 1097)
  assert all(wrong[task.data.extra["clean_labels"] == c].any() for c in range(10))
  np.testing.assert_array_equal(task.teacher.y, task.data.extra["clean_labels"])
  assert set(task.score(lambda x: np.eye(10)[task.test.y], task.test)) == {"accuracy", "balanced_accuracy"}
