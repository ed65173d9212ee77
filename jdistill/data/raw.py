"""What a reader hands over: labels at once, pixels only when asked for, so that a small subset decodes little."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class RawSplit(NamedTuple):
  """One split before checking.

  Attributes:
    labels: `[n]` or `[n, 1]`, any dtype; checked later.
    pixels: `(indices) -> [len(indices), height, width, channels]` uint8 in 0..255 or float in [0, 1].
    count: the number of images the split holds.
  """

  labels: np.ndarray
  pixels: Callable[[np.ndarray], np.ndarray]
  count: int


class RawSet(NamedTuple):
  """Two splits and, where the source has them, the names of the classes."""

  train: RawSplit
  test: RawSplit
  class_names: tuple[str, ...] | None = None


def from_arrays(images: np.ndarray, labels: np.ndarray) -> RawSplit:
  """A split whose pixels already lie in memory; grey `[n, height, width]` images get a channel axis."""
  images = images[..., None] if images.ndim == 3 else images
  return RawSplit(labels, lambda indices: images[indices], len(images) if images.ndim else 0)
