"""Images of several clients: styles, shares of classes, held-out images and scores."""

import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.tasks import Request, builder
from jdistill.tasks.clients import client_scores, resized


def task(dataset="digits", train_size=200, test_size=50, validation_size=40, **options):
  return builder("clients")(Request(dataset, None, train_size, test_size, "none", validation_size, 0), **options)


def archive(path, *, side=8, channels=1, classes=3, names=None, count=8):
  rng = np.random.default_rng(side)
  arrays = {}
  for split in ("train", "test"):
    arrays[f"{split}_images"] = np.float32(rng.uniform(size=(count * classes, side, side, channels)))
    arrays[f"{split}_labels"] = np.arange(count * classes) % classes
  if names is not None:
    arrays["class_names"] = np.array(names)
  np.savez(path, **arrays)
  return str(path)


def test_one_set_is_divided_and_every_client_has_its_style():
  found = task(styles=("plain", "inverted", "noisy"))
  owner = found.data.extra["client"]
  np.testing.assert_array_equal(np.bincount(owner), [50, 60, 50])  # 16 of each class: 5, 6 and 5
  for split, size in ((found.validation, 40), (found.test, 50)):
    assert len(split.y) == 3 * size
    plain, inverted, noisy = (split.x[split.extra["client"] == k] for k in range(3))
    np.testing.assert_allclose(inverted, 1 - plain, atol=1e-6)
    assert 0.1 < np.abs(noisy - plain).mean() < 0.3 and noisy.min() >= 0 and noisy.max() <= 1
  whole = task(styles=("plain", "plain"), validation_size=0)
  rows = {row.tobytes() for row in whole.data.x}
  assert len(whole.data.y) == 200 and len(rows) > 190  # no image is with two clients
  assert all(row.tobytes() not in rows for row in found.validation.x[:0])


def test_turned_images_are_those_of_a_quarter_turn():
  plain, turned = task(styles=("plain", "plain")), task(styles=("plain", "rotated"), angle=90.0)
  a, b = (one.test.x[one.test.extra["client"] == 1] for one in (plain, turned))
  np.testing.assert_allclose(b, np.rot90(a, axes=(1, 2)), atol=1e-5)


def test_classes_are_skewed_by_alpha():
  counts = [np.bincount(one, minlength=10) for one in _labels(task(alpha=0.1, least=1))]
  assert min(count.min() for count in counts) >= 1 and max(count.max() for count in counts) >= 10
  assert max(count.max() for count in (np.bincount(one) for one in _labels(task()))) <= 6


def _labels(found):
  return [found.data.y[found.data.extra["client"] == k] for k in range(3)]


def test_a_data_set_for_every_client(tmp_path):
  first, second = archive(tmp_path / "a.npz"), archive(tmp_path / "b.npz", side=6, channels=3)
  found = task(first, None, None, 0, styles=(), more=(second,), side=4)
  assert found.data.x.shape == (48, 4, 4, 3) and found.num_classes == 3
  np.testing.assert_array_equal(np.bincount(found.test.extra["client"]), [24, 24])


def test_resized_images_keep_planes_and_means():
  rows, columns = np.meshgrid(np.arange(8.0), np.arange(8.0), indexing="ij")
  x = np.float32((rows + 2 * columns)[None, :, :, None])
  np.testing.assert_allclose(resized(x, 8), x, atol=1e-5)
  half = resized(x, 4)[0, :, :, 0]
  np.testing.assert_allclose(half, x[0, :, :, 0].reshape(4, 2, 4, 2).mean((1, 3)), atol=1e-5)
  assert resized(x, 16).shape == (1, 16, 16, 1)


def test_scores_are_those_of_clients():
  assert client_scores({0: 1, 1: 9}, {0: 2, 1: 10}) == {"accuracy": 0.7, "pooled": 10 / 12, "worst": 0.5}
  found = task()
  owner = found.test.extra["client"]
  right = np.eye(10)[found.test.y]
  wrong = np.where((owner == 2)[:, None], np.roll(right, 1, axis=1), right)
  assert found.score(lambda x: wrong, found.test) == pytest.approx({"accuracy": 2 / 3, "pooled": 2 / 3, "worst": 0})


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"styles": ("plain", "invertd")}, r"task\.styles=.*unknown style 'invertd'; did you mean 'inverted'"),
    ({"styles": ("plain",)}, r"task\.styles=\['plain'\]: gives one style per client; name at least two"),
    ({"alpha": 0.0}, r"task\.alpha=0\.0: must be above 0"),
    ({"least": 9}, r"task\.styles=.*class 0 has 16 examples, fewer than least=9 for each of 3 clients; take fewer"),
    ({"more": ("a",)}, r"task\.styles=.*3 for 2 clients of task\.more; give one for each, or \(\)"),
  ],
)
def test_mistakes_are_named(options, message):
  with pytest.raises(UserError, match=message) as caught:
    task(**options)
  assert "\n" not in str(caught.value)


def test_clients_with_other_classes_or_sizes_are_refused(tmp_path):
  first = archive(tmp_path / "a.npz")
  other = archive(tmp_path / "b.npz", classes=4)
  with pytest.raises(UserError, match=r"task\.more=.*b\.npz has the classes \(0, 1, 2, 3; 4 in all\).*a\.npz has"):
    task(first, None, None, 0, styles=(), more=(other,))
  wide = archive(tmp_path / "c.npz", side=6)
  with pytest.raises(UserError, match=r"images of .*c\.npz are \(6, 6, 1\), of .*a\.npz \(8, 8, 1\); set task\.side"):
    task(first, None, None, 0, styles=(), more=(wide,))
