"""The web pool: who is in it, that nobody of it is elsewhere, what the shifts do to pixels, and what is refused."""

import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.data import load
from jdistill.tasks import Request, shifts
from jdistill.tasks.pool import KINDS
from jdistill.tasks.web import web

SIZES = {"teacher_size": 600, "shifted_size": 90, "rotated_size": 20, "junk_size": 30}
RNG = np.random.default_rng(0)


def request(**changes):
  return Request("digits", None, None, None, "none", 200, 0)._replace(**changes)


def archive(path, x, y):
  np.savez(path, **{f"{part}_{k}": v for part in ("train", "test") for k, v in (("images", x), ("labels", y))})
  return str(path)


def rows(x):
  return {image.tobytes() for image in np.ascontiguousarray(x)}


def test_the_pool_has_flags_and_no_labels():
  task = web(request(), **SIZES)
  pool = task.data
  assert len(pool.y) == 140 and not pool.y.any()
  kinds = [KINDS[k] for k in pool.extra["kind"]]
  assert {name: kinds.count(name) for name in KINDS} == {
    "inverted": 30,
    "blurred": 30,
    "dimmed": 30,
    "rotated": 20,
    "junk": 30,
    "elsewhere": 0,
  }
  np.testing.assert_array_equal(pool.extra["inside"], pool.extra["kind"] != KINDS.index("junk"))
  np.testing.assert_array_equal(pool.extra["inside"], pool.extra["hidden_label"] >= 0)
  assert pool.x.min() >= 0 and pool.x.max() <= 1
  np.testing.assert_array_equal(task.members(3), np.arange(140))
  assert "made from 497 others of the set: 30 inverted, 30 blurred, 30 dimmed, 20 rotated, 30 junk" in task.notes[1]


def test_teacher_validation_and_sources_share_no_image():
  task, data = web(request(), **SIZES), load("digits")
  assert (len(task.teacher.y), len(task.validation.y), len(task.test.y)) == (600, 200, 500)
  used = np.concatenate([task.teacher.ids, task.validation.ids])
  assert len(np.unique(used)) == 800
  np.testing.assert_array_equal(task.teacher.y, data.train_y[task.teacher.ids])
  inverted = task.data.x[task.data.extra["kind"] == 0]
  found = [np.flatnonzero((np.abs(data.train_x - (1 - x)) < 1e-6).all((1, 2, 3))) for x in inverted]
  assert all(len(f) for f in found) and not set(np.concatenate(found)) & set(used)
  labels = task.data.extra["hidden_label"][task.data.extra["kind"] == 0]
  assert [data.train_y[f[0]] for f in found] == labels.tolist()


def test_a_source_that_comes_again_is_shifted_otherwise():
  task = web(request(), **SIZES | {"teacher_size": 1059, "shifted_size": 114, "rotated_size": 0, "junk_size": 0})
  assert "made from 38 others" in task.notes[1]
  kinds = task.data.extra["kind"]
  np.testing.assert_array_equal(np.bincount(kinds, minlength=3), [38, 38, 38])
  for source in range(38):
    assert sorted(kinds[source::38]) == [0, 1, 2]
  labels = task.data.extra["hidden_label"].reshape(3, 38)
  np.testing.assert_array_equal(labels, labels[[0, 0, 0]])


def test_the_seed_decides_and_preprocessing_is_that_of_the_clean_images():
  one, two, other = (web(request(seed=seed), **SIZES).data for seed in (0, 0, 1))
  np.testing.assert_array_equal(one.x, two.x)
  assert not np.array_equal(one.x, other.x)
  standard = web(request(preprocessing="standardize"), **SIZES)
  train = load("digits").train_x
  np.testing.assert_allclose(standard.data.x, (one.x - train.mean()) / train.std(), atol=1e-5)


def test_the_original_pool_is_the_teachers_without_labels():
  task = web(request(), pool="original", **SIZES)
  np.testing.assert_array_equal(task.data.x, task.teacher.x)
  assert not task.data.y.any() and task.teacher.y.any() and task.data.extra["inside"].all()


def test_junk_from_a_file(tmp_path):
  junk = RNG.random((50, 8, 8, 3)).astype(np.float32)
  archive(tmp_path / "junk.npz", junk, np.arange(50) % 2)
  pool = web(request(), junk=str(tmp_path / "junk.npz"), **SIZES).data
  found = pool.x[pool.extra["kind"] == KINDS.index("junk")]
  assert len(rows(found)) == 30 and rows(found) <= rows(junk.mean(-1, keepdims=True))
  with pytest.raises(UserError, match=r"task.junk_size=51: .*junk.npz' has 50 images"):
    web(request(), junk=str(tmp_path / "junk.npz"), **SIZES | {"junk_size": 51})
  archive(tmp_path / "large.npz", RNG.random((50, 9, 8, 1)).astype(np.float32), np.arange(50) % 2)
  with pytest.raises(UserError, match=r"task.junk=.*large.npz': images \(9, 8, 1\), and 'digits' has \(8, 8, 1\)"):
    web(request(), junk=str(tmp_path / "large.npz"), **SIZES)


def test_a_pool_of_another_set_and_junk_of_any_size(tmp_path):
  theirs, labels = RNG.random((60, 12, 16, 3)).astype(np.float32), np.arange(60) % 10
  other = archive(tmp_path / "other.npz", theirs, labels)
  junk = archive(tmp_path / "junk.npz", RNG.random((40, 3, 3, 1)).astype(np.float32), np.arange(40) % 2)
  options = {"crop": 6, "side": 3, "elsewhere": other, "junk": junk, "teacher_size": 600, "junk_size": 40}
  task = web(request(), **options, shifted_size=50, rotated_size=10)
  assert task.input_shape == (3, 3, 1) and task.data.x.shape == (100, 3, 3, 1)
  middle = load("digits").test_x[:, 1:7, 1:7].reshape(500, 3, 2, 3, 2, 1).mean((2, 4))
  np.testing.assert_allclose(task.test.x, middle, atol=1e-6)
  kinds, hidden = task.data.extra["kind"], task.data.extra["hidden_label"]
  assert [int((kinds == KINDS.index(k)).sum()) for k in ("elsewhere", "rotated", "junk")] == [50, 10, 40]
  np.testing.assert_array_equal(np.bincount(hidden[hidden >= 0]), np.full(10, 6))
  padded = np.pad(theirs.mean(-1), ((0, 0), (3, 3), (1, 1)))  # to 18 by 18
  want = padded.reshape(60, 3, 6, 3, 6).mean((2, 4))
  for x, label in zip(task.data.x[kinds == KINDS.index("elsewhere")], hidden, strict=False):
    (which,) = np.flatnonzero(np.abs(want - x[..., 0]).max((1, 2)) < 1e-6)
    assert labels[which] == label
  assert task.notes[1].endswith(f"without labels, with {other}: 10 rotated, 40 junk, 50 elsewhere")
  with pytest.raises(UserError, match=r"task.shifted_size=51: with 10 turned ones that is more than the 60 images"):
    web(request(), **options, shifted_size=51, rotated_size=10)
  with pytest.raises(UserError, match=r"task.elsewhere=.*: 2 classes, and 'digits' has 10"):
    web(request(), **options | {"elsewhere": junk}, shifted_size=5, rotated_size=0)
  with pytest.raises(UserError, match=r"task.elsewhere='no.npz': there is no such file"):
    web(request(), elsewhere="no.npz", **SIZES)
  with pytest.raises(UserError, match=r"task.crop=9: images are 8x8; crop to 1 to 8 pixels"):
    web(request(), crop=9, **SIZES)


def test_smaller_images():
  task = web(request(), side=4, **SIZES)
  assert task.input_shape == (4, 4, 1) and task.data.x.shape == (140, 4, 4, 1)
  want = load("digits").test_x.reshape(500, 4, 2, 4, 2, 1).mean((2, 4))
  np.testing.assert_allclose(task.test.x, want, atol=1e-6)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"pool": "net"}, "task.pool='net': unknown; choose one of original, web"),
    ({"side": 8}, "task.side=8: images are 8x8; leave it unset"),
    ({"teacher_size": 1200}, "task.teacher_size=1200: a class-balanced subset of these 1097 images has at most"),
  ],
)
def test_bad_options_are_refused(options, message):
  with pytest.raises(UserError, match=message):
    web(request(), **SIZES | options)


def test_no_image_left_for_the_pool(tmp_path):
  archive(tmp_path / "few.npz", RNG.random((10, 4, 4, 1)).astype(np.float32), np.arange(10) % 2)
  with pytest.raises(UserError, match=r"task\.teacher_size=6: no image is left to make the pool from"):
    web(request(dataset=str(tmp_path / "few.npz"), validation_size=4), teacher_size=6)


# shifts -------------------------------------------------------------------------------------------------------------


def test_quarter_turns_are_exact():
  x = RNG.random((3, 5, 5, 2))
  for turns in range(4):
    got = shifts.rotate(x, np.full(3, 90.0 * turns))
    np.testing.assert_allclose(got, np.rot90(x, turns, axes=(1, 2)), atol=1e-9)


def test_rotation_interpolates_between_pixels():
  x = np.zeros((1, 9, 9, 1))
  x[0, 4, 7] = 1.0  # three right of the centre
  got = shifts.rotate(x, np.array([45.0]))[0, ..., 0]
  weights = got / got.sum()
  place = np.array([(weights * axis).sum() for axis in np.meshgrid(*[np.arange(9)] * 2, indexing="ij")]) - 4
  np.testing.assert_allclose(place, [-3 / np.sqrt(2), 3 / np.sqrt(2)], atol=0.15)  # up and right: anticlockwise


def test_blur_keeps_brightness_and_dimming_keeps_order():
  x = np.zeros((1, 8, 8, 1))
  x[0, 4, 4] = 1.0
  blurred = shifts.blur(RNG, x)[0, ..., 0]
  np.testing.assert_allclose(blurred[3:6, 3:6], np.outer([1, 2, 1], [1, 2, 1]) / 16)
  assert blurred.sum() == pytest.approx(1.0)
  images = RNG.random((4, 8, 8, 1))
  dimmed = shifts.dim(RNG, images)
  contrast = (dimmed.max((1, 2, 3)) - dimmed.min((1, 2, 3))) / (images.max((1, 2, 3)) - images.min((1, 2, 3)))
  assert (contrast >= 0.3).all() and (contrast <= 0.6).all() and dimmed.min() >= 0.1 and dimmed.max() <= 1.0


def test_padding_before_shrinking():
  x = np.ones((2, 28, 28, 1), np.float32)
  got = shifts.shrink(x, 8)  # padded to 32
  assert got.shape == (2, 8, 8, 1)
  np.testing.assert_allclose(got[0, 3, 3], 1.0)
  np.testing.assert_allclose([got[0, 0, 0, 0], got[0, 0, 3, 0]], [0.25, 0.5])


def test_drawings_differ_and_are_images():
  drawn = shifts.drawings(np.random.default_rng(1), 40, (28, 28, 3))
  assert drawn.shape == (40, 28, 28, 3) and drawn.min() >= 0 and drawn.max() <= 1
  assert len(rows(drawn)) == 40 and (drawn.max((1, 2, 3)) > 0.2).mean() > 0.9
  np.testing.assert_array_equal(drawn[..., 0], drawn[..., 2])
