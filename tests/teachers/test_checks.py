"""A teacher that knows nothing, or has its classes in another order, is told from its answers."""

import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.teachers.checks import check_knowledge

RNG = np.random.default_rng(0)
LABELS = np.tile(np.arange(4), 25)


def answers(classes, wrong=0.0):
  """Logits whose greatest is at `classes`, but for a share of examples that are off by one."""
  classes = np.where(np.arange(len(classes)) < wrong * len(classes), (classes + 1) % 4, classes)
  return 5.0 * np.eye(4)[classes] + 0.1 * RNG.normal(size=(len(classes), 4))


def refused(logits, labels=LABELS, **options):
  with pytest.raises(UserError) as error:
    check_knowledge(logits, labels, **options)
  assert "\n" not in str(error.value)
  return str(error.value)


@pytest.mark.parametrize("wrong", [0.0, 0.3, 0.7], ids=["all", "most", "few"])
def test_better_than_chance_is_a_teacher(wrong):
  check_knowledge(answers(LABELS, wrong), LABELS)


def test_chance_and_worse_are_refused():
  always = refused(answers(np.zeros_like(LABELS)))
  assert always.startswith("teacher: accuracy 0.250 is not above chance for 4 classes") and "teacher_train" in always
  scattered = (LABELS + 1 + np.arange(100) // 4 % 3) % 4  # never right, and no relabelling would mend it
  assert refused(answers(scattered), name="the committee").startswith("the committee: accuracy 0.000 is not above")


def test_another_order_of_the_classes_is_told_with_the_order():
  told = refused(answers(np.array([2, 0, 1, 3])[LABELS]))
  assert told == (
    "teacher: its classes are in another order (accuracy 0.250, 1.000 with 0->1, 1->2, 2->0); give it these labels, "
    "or permute its head"
  )
  assert "0->3, 1->2, 2->1, 3->0" in refused(answers(3 - LABELS, 0.1))


def test_many_moved_classes_are_cut_short():
  labels = np.tile(np.arange(10), 10)
  told = refused(np.eye(10)[(labels + 1) % 10], labels)
  assert told.count("->") == 5 and ", ...)" in told


def test_a_good_teacher_that_confuses_two_classes_is_no_permuted_one():
  swapped = np.where(LABELS < 2, 1 - LABELS, LABELS)
  check_knowledge(answers(swapped, 0.0)[LABELS > 0], LABELS[LABELS > 0])


def test_labels_without_a_class_are_refused():
  told = refused(answers(LABELS)[:, :3], name="teacher 1")
  assert told == "teacher 1: has 3 classes, and there are labels up to 3; give a teacher of these classes"


def test_classes_without_labels_are_fine():
  check_knowledge(np.concatenate([answers(LABELS), np.full((100, 2), -9.0)], -1), LABELS)
