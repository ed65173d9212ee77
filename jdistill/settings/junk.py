"""Images of other things, which a pool from the web holds as well."""

import numpy as np

from jdistill import data
from jdistill.base import UserError
from jdistill.settings.setting import Request
from jdistill.settings.shifts import drawings


def foreign(
  junk: str, request: Request, rng: np.random.Generator, count: int, shape: tuple[int, int, int]
) -> np.ndarray:
  """`count` images `[count, *shape]` of other things, in [0, 1].

  Args:
    junk: `"drawn"` (random shapes, lines and textures), or the name or path of another image set. Its colours become
      grey where the images are grey.
    request: the run's images, and where sets lie.
    rng: which are taken.
    count: how many.
    shape: `(height, width, channels)`.

  Raises:
    UserError: the other set has images of another size, or too few.
  """
  if junk == "drawn":
    return drawings(rng, count, shape)
  found = np.asarray(data.load(junk, data_dir=request.data_dir).train_x, np.float32)
  if shape[-1] == 1 and found.shape[-1] == 3:
    found = found.mean(-1, keepdims=True)
  if found.shape[1:] != shape:
    raise UserError(
      f"setting.junk={junk!r}: images {found.shape[1:]}, and {request.dataset!r} has {shape}; resize them"
    )
  if len(found) < count:
    raise UserError(f"setting.junk_size={count}: {junk!r} has {len(found)} images; use at most those")
  return found[rng.permutation(len(found))[:count]]
