"""The task of label maps: what students see, mean IoU against counting, and files that are refused."""

import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.data import masks, shapes
from jdistill.tasks import Request
from jdistill.tasks.segmentation import scores, scores_with_labels, segmentation

RNG = np.random.default_rng(1)


def request(dataset="shapes", train_size=20, test_size=8, validation_size=4, preprocessing="channel"):
  return Request(str(dataset), None, train_size, test_size, preprocessing, validation_size, 0)


def arrays(parts=("train", "test"), classes=3, count=12, ignore=9):
  out = {}
  for part in parts:
    out[f"{part}_images"] = RNG.integers(0, 256, (count, 6, 4, 3), dtype=np.uint8)
    labels = RNG.integers(0, classes, (count, 6, 4), dtype=np.uint8)
    labels[:, 0] = ignore
    out[f"{part}_masks"] = labels
  return out


def file(tmp_path, **changes):
  path = tmp_path / "own.npz"
  np.savez(path, **{key: value for key, value in (arrays() | changes).items() if value is not None})
  return path


def one_hot(maps, classes):
  return 10.0 * np.eye(classes, dtype=np.float32)[np.maximum(maps, 0)]


def np_miou(predicted, labels, classes):
  known = labels >= 0
  values = []
  for c in range(classes):
    union = ((predicted == c) | (labels == c)) & known
    if union.any():
      values.append(((predicted == c) & (labels == c) & known).sum() / union.sum())
  return np.mean(values)


def test_drawn_shapes_are_the_same_every_time_and_have_all_classes():
  images, maps = shapes.draw(12, seed=3)
  assert images.shape == (12, 32, 32, 3) and maps.shape == (12, 32, 32) and images.dtype == maps.dtype == np.uint8
  again = shapes.draw(5, seed=3)
  np.testing.assert_array_equal(images[:5], again[0])
  np.testing.assert_array_equal(maps[:5], again[1])
  assert not (shapes.draw(5, seed=4)[1] == again[1]).all()
  assert np.unique(maps).tolist() == [0, 1, 2, 3]
  assert 0.5 < (maps == 0).mean() < 0.9


def test_shapes_have_the_areas_of_their_radius():
  """Counted pixels against pi r^2, which the square and the triangle share; whole shapes only."""
  for kind in (1, 2, 3):
    areas = [shapes._outline(np.random.default_rng(n), kind, 256).sum() for n in range(40)]
    assert max(areas) == pytest.approx(np.pi * (0.28 * 256) ** 2, rel=0.1)


def test_the_setting_divides_and_leaves_an_empty_channel():
  found = segmentation(request())
  assert (found.kind, found.metric, found.num_classes, found.input_shape) == ("maps", "miou", 4, (32, 32, 4))
  assert [len(part.ids) for part in (found.data, found.validation, found.test)] == [16, 4, 8]
  assert not set(found.data.ids) & set(found.validation.ids)
  assert not found.data.x[..., -1].any() and abs(found.data.x[..., :3].mean()) < 0.3
  np.testing.assert_array_equal(found.members(0), np.arange(16))
  np.testing.assert_array_equal(found.data.extra["present"][:, 2], [2 in y for y in found.data.y])
  assert segmentation(request(train_size=None, test_size=None)).data.x.shape[0] == 496


def test_a_file_has_its_own_classes_ignored_pixels_and_validation(tmp_path):
  found = segmentation(request(file(tmp_path), 10, None), ignore=9)
  assert (found.num_classes, len(found.data.ids), len(found.test.ids)) == (3, 6, 12)
  assert (found.data.y[:, 0] == -1).all() and set(np.unique(found.data.y)) == {-1, 0, 1, 2}
  assert "16.7% of the training pixels have none" in found.notes[1]
  path = file(tmp_path, **arrays(("val",)), class_names=np.array(["a", "b", "c"]))
  found = segmentation(request(path, None, None), ignore=9)
  assert len(found.data.ids) == 12 and len(found.validation.ids) == 4 and "a, b, c" in found.notes[1]
  pixels = np.load(path)["val_images"][found.validation.ids] / 255
  assert np.corrcoef(found.validation.x[..., :3].ravel(), pixels.ravel())[0, 1] > 0.9


def test_scores_are_those_of_counting(tmp_path):
  found = segmentation(request(file(tmp_path), None, None), ignore=9)
  guess = RNG.integers(0, 3, found.test.y.shape)
  by_image = {x.tobytes(): g for x, g in zip(found.test.x, guess, strict=True)}
  got = scores(lambda x: one_hot(np.stack([by_image[one.tobytes()] for one in x]), 3), found.test)
  assert got["miou"] == pytest.approx(np_miou(guess, found.test.y, 3), rel=1e-6)
  known = found.test.y >= 0
  assert got["pixel_accuracy"] == pytest.approx((guess == found.test.y)[known].mean())


def test_many_images_are_scored_in_parts():
  found = segmentation(request(test_size=70))
  sizes = []

  def predict(x):
    sizes.append(len(x))
    return one_hot(np.zeros(x.shape[:3], int), 4)

  want = np_miou(np.zeros_like(found.test.y), found.test.y, 4)
  assert scores(predict, found.test)["miou"] == pytest.approx(want, rel=1e-6)
  assert sizes == [64, 64]


def test_a_network_that_copies_the_labels_is_found_out():
  """It reads fixed codes, so it is perfect with the right map and says the wrong map with that of another image."""
  found = segmentation(request())

  def copy(x):
    return one_hot(np.clip(np.rint(x[..., -1] / 1.5 * 10 + 2.5).astype(int), 0, 3), 4)

  got = scores_with_labels(copy, found.test, codes="fixed", sigma=0.001)
  assert got["miou_labels"] == pytest.approx(1.0)
  want = np_miou(np.roll(found.test.y, -1, 0), found.test.y, 4)
  assert got["miou_wrong_labels"] == pytest.approx(want, rel=1e-3)
  assert scores_with_labels(copy, found.test)["miou_labels"] < 0.7  # random codes do not tell classes


def test_students_are_not_scored_with_labels():
  found = segmentation(request())
  x = found.test.x.copy()
  x[0, 0, 0, -1] = 0.1
  with pytest.raises(ValueError, match="label channel is not zero"):
    scores(lambda x: x, found.test._replace(x=x))
  with pytest.raises(ValueError, match=r"logits of shape \(8, 4\) for maps .* 'segnet'"):
    scores(lambda x: np.zeros((len(x), 4)), found.test)


@pytest.mark.parametrize(
  ("changes", "ignore", "message"),
  [
    ({}, None, r"task.ignore: not given for .*own.npz; say which mask value"),
    ({}, 255, r"train: no pixel is of class 3 .*task.ignore=255"),
    ({"class_names": np.array(["a", "b"])}, 9, r"train: labels \[2\] are none of the 2 classes"),
    ({"test_masks": np.full((12, 6, 4), 5)}, 9, r"test: labels \[5\] are none of the 3 classes and not"),
    ({"class_names": np.array(["a", "b", "c", "d"])}, 9, r"no pixel is of class 3"),
    ({"train_masks": np.full((12, 6, 4), 9)}, 9, r"train: every pixel has the value task.ignore=9"),
    ({"train_masks": np.zeros((12, 3, 2), int)}, 9, r"masks of shape \(12, 3, 2\) for images of shape \(12, 6, 4, 3\)"),
    ({"train_masks": np.zeros((12, 6, 4))}, 9, r"masks are of dtype float64; save whole numbers"),
    ({"train_images": np.full((12, 6, 4, 3), np.nan)}, 9, r"train: image 0 holds NaN"),
    ({"test_masks": None}, 9, r"has no 'test_masks' \(it holds"),
    ({"val_images": np.zeros((2, 6, 4, 3))}, 9, r"has no 'val_masks'"),
  ],
)
def test_files_that_are_refused(tmp_path, changes, ignore, message):
  with pytest.raises(UserError, match=message) as caught:
    segmentation(request(file(tmp_path, **changes), None, None), ignore=ignore)
  assert "\n" not in str(caught.value)


def test_other_things_that_are_refused(tmp_path):
  with pytest.raises(UserError, match=r"dataset='digits': no segmentation set; give 'shapes', or a .npz file"):
    segmentation(request("digits"))
  with pytest.raises(UserError, match="there is no such file"):
    segmentation(request(tmp_path / "none.npz"), ignore=9)
  (tmp_path / "bad.npz").write_text("x")
  with pytest.raises(UserError, match="cannot be read as arrays"):
    segmentation(request(tmp_path / "bad.npz"), ignore=9)
  with pytest.raises(UserError, match="validation_size=20: there are 20 images"):
    segmentation(request(validation_size=20))
  with pytest.raises(UserError, match="test_size=13: there are 12 images"):
    segmentation(request(file(tmp_path), None, 13), ignore=9)


def test_masks_without_a_label_are_warned_of(tmp_path):
  labels = arrays()["train_masks"]
  labels[3] = 9
  with pytest.warns(UserWarning, match="train: 1 of 12 masks have no labelled pixel"):
    masks.load(str(file(tmp_path, train_masks=labels)), ignore=9)
