"""A labelled image set in host memory, and the fingerprint that names its content."""

import hashlib
from typing import NamedTuple

import numpy as np


class Dataset(NamedTuple):
  """Images with integer labels, split into a training and a test part; plain NumPy on the host.

  Attributes:
    name: how the set was asked for.
    train_x: `[n, height, width, channels]` float32 in [0, 1].
    train_y: `[n]` int32.
    train_ids: `[n]` int32, position in the source's whole training split; a subset keeps its images' ids.
    test_x: `[m, height, width, channels]` float32 in [0, 1].
    test_y: `[m]` int32.
    class_names: one name per class, in label order.
    fingerprint: SHA-256 in hexadecimal over all arrays and the class names. The `name` does not enter, so the same
      images under another path keep their fingerprint.
  """

  name: str
  train_x: np.ndarray
  train_y: np.ndarray
  train_ids: np.ndarray
  test_x: np.ndarray
  test_y: np.ndarray
  class_names: tuple[str, ...]
  fingerprint: str

  @property
  def num_classes(self) -> int:
    """The number of classes."""
    return len(self.class_names)

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """`(height, width, channels)` of every image."""
    return tuple(int(size) for size in self.train_x.shape[1:])


def content_hash(arrays: dict[str, np.ndarray], class_names: tuple[str, ...]) -> str:
  """Hashes arrays (name, dtype, shape, bytes) and class names: equal if and only if the content is equal.

  Args:
    arrays: arrays by name; the order of the dictionary does not matter.
    class_names: names in label order.

  Returns:
    64 hexadecimal digits (SHA-256).
  """
  digest = hashlib.sha256()
  for key in sorted(arrays):
    array = np.ascontiguousarray(arrays[key])
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)  # the same name on every machine
    digest.update(f"{key}:{array.dtype.str}:{array.shape};".encode())
    digest.update(array.reshape(-1).view(np.uint8))
  digest.update(repr(tuple(class_names)).encode())
  return digest.hexdigest()
