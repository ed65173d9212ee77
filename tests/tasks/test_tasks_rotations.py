"""Rotations as a pretext task: what is turned, by how much, and that labels have no part in it."""

import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.tasks import Request, builder, rotations
from jdistill.tasks.rotations import turned


def request(**changes):
  return Request(**({"dataset": "digits", "data_dir": None, "train_size": 200, "test_size": 100} | changes), **FIXED)


FIXED = {"preprocessing": "standardize", "validation_size": 40, "seed": 0}


def test_quarter_turns():
  image = np.arange(4, dtype=np.float32).reshape(1, 2, 2, 1)
  found = turned(image)
  np.testing.assert_array_equal(
    found.x[..., 0], [[[0, 1], [2, 3]], [[1, 3], [0, 2]], [[3, 2], [1, 0]], [[2, 0], [3, 1]]]
  )
  np.testing.assert_array_equal(found.y, [0, 1, 2, 3])
  assert found.y.dtype == np.int32 and list(found.ids) == [0, 1, 2, 3]


def test_all_parts_are_turned_and_none_is_in_two():
  task = builder("rotations")(request())
  plain = builder("supervised")(request())
  assert task.num_classes == 4 and task.input_shape == (8, 8, 1)
  for part in ("teacher", "validation", "test"):
    own, whole = getattr(task, part), getattr(plain, part)
    assert len(own.y) == 4 * len(whole.y) and np.bincount(own.y).tolist() == [len(whole.y)] * 4
    np.testing.assert_array_equal(own.x[::4], whole.x)
  np.testing.assert_array_equal(task.members(3), np.arange(len(task.data.y)))
  few = rotations.rotations(request(), teacher_size=10)
  assert len(few.teacher.y) == 40 and "10 training images" in few.notes[0]


def test_what_cannot_be_turned(tmp_path):
  with pytest.raises(UserError, match=r"task\.teacher_size=900: there are 160 training images"):
    rotations.rotations(request(), teacher_size=900)
  with pytest.raises(UserError, match="images of 2 x 3 pixels are not square"):
    turned(np.zeros((1, 2, 3, 1), np.float32))
