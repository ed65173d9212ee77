"""Images of one data set in the size and with the channels of another."""

import numpy as np

from jdistill.base import UserError
from jdistill.ops.affine import resize_weights


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
      x = np.moveaxis(np.tensordot(resize_weights(x.shape[axis], shape[axis - 1]), x, (1, axis)), 0, axis)
  return np.ascontiguousarray(x, np.float32)
