"""Images of other things, which a pool from the web holds as well."""

import numpy as np

from jdistill import data
from jdistill.base import UserError
from jdistill.tasks.shifts import drawings, shrink
from jdistill.tasks.task import Request


def foreign(
  junk: str,
  request: Request,
  rng: np.random.Generator,
  count: int,
  shape: tuple[int, int, int],
  side: int | None = None,
) -> np.ndarray:
  """`count` images of other things, in [0, 1].

  Args:
    junk: `"drawn"` (random shapes, lines and textures), or the name or path of another image set.
    request: the run's images, and where sets lie.
    rng: which are taken.
    count: how many.
    shape: `(height, width, channels)` of the run's images.
    side: they are made as small as that (`jdistill.tasks.shifts.shrink`); without it, another set has to have
      images of the same size.

  Returns:
    `[count, side or height, side or width, channels]`.

  Raises:
    UserError: the other set has images of another size, or too few.
  """
  if junk == "drawn":
    drawn = drawings(rng, count, shape)
    return drawn if side is None else shrink(drawn, side)
  found = fitted("junk", junk, other("junk", junk, request).train_x, request, shape, side)
  if len(found) < count:
    raise UserError(f"task.junk_size={count}: {junk!r} has {len(found)} images; use at most those")
  return found[rng.permutation(len(found))[:count]]


def other(key: str, name: str, request: Request) -> data.Dataset:
  """Another image set, named by a key of the section `task`.

  Raises:
    UserError: it is unknown or broken.
  """
  try:
    return data.load(name, data_dir=request.data_dir)
  except UserError as error:
    raise UserError(str(error).replace("dataset=", f"task.{key}=", 1)) from error


def fitted(
  key: str, name: str, x: np.ndarray, request: Request, shape: tuple[int, int, int], side: int | None
) -> np.ndarray:
  """Images of another set as this run's: grey where these are grey, and of the same size or made as small as `side`.

  Args:
    key: of the section `task`, for messages.
    name: of the other set.
    x: its images.
    request: the run's images.
    shape: `(height, width, channels)` of the run's images.
    side: see `foreign`.

  Raises:
    UserError: they have other colours or another size.
  """
  x = np.asarray(x, np.float32)
  if shape[-1] == 1 and x.shape[-1] == 3:
    x = x.mean(-1, keepdims=True)
  if side is not None and x.shape[-1] == shape[-1]:
    return x if x.shape[1:3] == (side, side) else shrink(x, side)
  if x.shape[1:] != shape:
    raise UserError(f"task.{key}={name!r}: images {x.shape[1:]}, and {request.dataset!r} has {shape}; resize them")
  return x
