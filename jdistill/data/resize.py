"""Images of one data set in the size and with the channels of another."""

from typing import Literal

import numpy as np

from jdistill.base import UserError


def resized(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """Images in another size: bilinear between pixel centres, averaging over as many pixels as one takes the place of.

  Args:
    x: `[n, height, width, channels]`.
    shape: `(height, width, channels)`. One channel becomes several copies of it, several become their mean.

  Returns:
    `[n, *shape]` float32; within the range of `x`.

  Raises:
    UserError: channels of other numbers than one and the same.
  """
  x = np.asarray(x, np.float32)
  if x.shape[-1] != shape[-1]:
    if 1 not in (x.shape[-1], shape[-1]):
      raise UserError(f"images have {x.shape[-1]} channels and {shape[-1]} are needed; give grey ones or as many")
    x = x.mean(-1, keepdims=True) if shape[-1] == 1 else np.repeat(x, shape[-1], -1)
  for axis in (1, 2):
    if x.shape[axis] != shape[axis - 1]:
      x = np.moveaxis(np.tensordot(shrinking(x.shape[axis], shape[axis - 1]), x, (1, axis)), 0, axis)
  return np.ascontiguousarray(x, np.float32)


def shrinking(old: int, new: int, kind: Literal["bilinear", "area"] = "bilinear") -> np.ndarray:
  """What each pixel of an axis takes of the pixels of a longer one (or shorter one, with `"bilinear"`).

  Args:
    old, new: numbers of pixels.
    kind: `"bilinear"`, hats around the new centres, of the width of a pixel of the coarser grid; or `"area"`, the mean
      of `old / new` pixels.

  Returns:
    `[new, old]` float32, rows of sum 1.

  Raises:
    ValueError: `"area"` where `new` does not divide `old`.
  """
  if kind == "area":
    if old % new:
      raise ValueError(f"shrinking: {new} pixels of {old} are no means of equally many; use 'bilinear'")
    return np.repeat(np.eye(new, dtype=np.float32), old // new, axis=1) * np.float32(new / old)
  centres = (np.arange(new) + 0.5) * old / new - 0.5
  hats = np.maximum(0, 1 - np.abs(np.arange(old)[None] - centres[:, None]) / max(1, old / new))
  return np.float32(hats / hats.sum(1, keepdims=True))
