"""Labelled few and a mixed pool: who has what, near-duplicates left out, and pools that cannot be made."""

import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.tasks import Request
from jdistill.tasks.unlabelled import unlabelled

SIZES = {"teacher_size": 400, "labelled_size": 60}


def request(**changes):
  return Request("digits", None, None, None, "standardize", 200, 0)._replace(**changes)


def rows(x):
  return {row.tobytes() for row in x}


def test_labelled_pool_and_held_out_images_are_apart():
  task = unlabelled(request(), duplicate_threshold=1.0, **SIZES)
  data, flags = task.data, task.data.extra
  assert len(task.teacher.y) == 400 and flags["labelled"].sum() == 400
  assert (~flags["labelled"] & ~flags["junk"]).sum() == 697 and flags["junk"].sum() == 697  # 1,297 - 200 - 400 others
  np.testing.assert_array_equal(data.y[flags["labelled"]], task.teacher.y)
  assert (data.y[~flags["labelled"]] == -1).all() and not (flags["labelled"] & flags["junk"]).any()
  own = rows(data.x[~flags["labelled"]])
  for part in (task.teacher, task.validation, task.test):
    assert not own & rows(part.x)
  assert len(np.unique(data.ids)) == len(data.ids)


def test_every_student_has_its_own_few_and_the_whole_pool():
  task = unlabelled(request(), **SIZES)
  first, second = task.members(0), task.members(1)
  labelled = task.data.extra["labelled"]
  assert len(first) == len(second) == 60 + (~labelled).sum()
  assert (np.bincount(task.data.y[first[labelled[first]]]) == 6).all()
  assert set(first[:60]) != set(second[:60]) and set(first[60:]) == set(np.flatnonzero(~labelled))
  alone = unlabelled(request(), pool="none", **SIZES)
  np.testing.assert_array_equal(alone.members(0), first[:60])
  np.testing.assert_array_equal(alone.data.x, task.data.x)


def test_near_duplicates_of_held_out_images_are_left_out(tmp_path):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (80, 6, 6), dtype=np.uint8)
  labels = np.tile(np.arange(4), 20)
  test = np.clip(images[:40].astype(int) + rng.integers(-3, 4, (40, 6, 6)), 0, 255).astype(np.uint8)  # nearly the same
  path = tmp_path / "near.npz"
  np.savez(path, x_train=images, y_train=labels, x_test=test, y_test=labels[:40])
  ask = request(dataset=str(path), validation_size=4, preprocessing="none")
  sizes = {"teacher_size": 12, "labelled_size": 8, "junk_size": 5}
  task = unlabelled(ask, duplicate_threshold=0.98, **sizes)
  pool = task.data.x[~task.data.extra["labelled"] & ~task.data.extra["junk"]]
  # independently: no image of the pool may be close to any test image, and all the others must be there
  known = rows(np.float32(images[:40] / np.float32(255))[..., None])
  assert not rows(pool) & known
  everything = unlabelled(ask, duplicate_threshold=1.0, **sizes)
  before = everything.data.x[~everything.data.extra["labelled"] & ~everything.data.extra["junk"]]
  twins = len(rows(before) & known)
  assert twins > 10 and len(pool) == len(before) - twins == 64 - twins
  assert f"{twins} near-duplicates" in task.notes[1] and task.data.extra["junk"].sum() == 5


def test_junk_of_another_set(tmp_path):
  path = tmp_path / "junk.npz"
  arrays = {"x_train": np.full((30, 8, 8), 200, np.uint8), "y_train": np.arange(30) % 3}
  np.savez(path, **arrays, x_test=arrays["x_train"][:3], y_test=arrays["y_train"][:3])
  task = unlabelled(request(preprocessing="none"), junk=str(path), junk_size=20, **SIZES)
  junk = task.data.x[task.data.extra["junk"]]
  assert len(junk) == 20
  np.testing.assert_allclose(junk, 200 / 255, rtol=1e-6)
  with pytest.raises(UserError, match=r"task.junk_size=31: .* has 30 images; use at most those"):
    unlabelled(request(), junk=str(path), junk_size=31, **SIZES)
  np.savez(
    path,
    **(arrays | {"x_train": np.zeros((30, 9, 9), np.uint8)}),
    x_test=np.zeros((3, 9, 9), np.uint8),
    y_test=[0, 1, 2],
  )
  with pytest.raises(UserError, match=r"images \(9, 9, 1\), and 'digits' has \(8, 8, 1\)"):
    unlabelled(request(), junk=str(path), junk_size=5, **SIZES)


def test_smaller_images():
  task = unlabelled(request(), side=4, **SIZES)
  assert task.input_shape == (4, 4, 1) and task.test.x.shape[1:] == (4, 4, 1)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"pool": "web"}, r"task.pool='web': unknown; choose one of mixed, none"),
    ({"pool_size": 698}, r"task.pool_size=698: 697 images are left for the pool"),
    ({"labelled_size": 500}, r"task.labelled_size=500"),
  ],
)
def test_pools_that_cannot_be_made(options, message):
  with pytest.raises(UserError, match=message):
    unlabelled(request(), **(SIZES | options)).members(0)
