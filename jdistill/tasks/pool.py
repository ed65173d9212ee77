"""What a pool from the web holds of the classes: shifted and turned copies, or another set's images."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jdistill.base import UserError
from jdistill.tasks.junk import fitted, other
from jdistill.tasks.shifts import SHIFTS, rotate
from jdistill.tasks.task import Request

KINDS = (*SHIFTS, "rotated", "junk", "elsewhere")


class Pixels(NamedTuple):
  """Images in [0, 1] and their classes."""

  x: np.ndarray
  y: np.ndarray


class Seen(NamedTuple):
  """Images of the classes in a pool: pixels in [0, 1], positions in `KINDS`, classes."""

  x: np.ndarray
  kinds: np.ndarray
  hidden: np.ndarray


def copies(
  rng: np.random.Generator, originals: Pixels, shifted: int, rotated: int, small: Callable[[np.ndarray], np.ndarray]
) -> Seen:
  """`shifted` copies, a third with each shift, and `rotated` turned ones, of images in random order.

  Args:
    rng: order, shifts and angles.
    originals: images; they are used again, with another shift or angle, where there are too few.
    shifted, rotated: how many.
    small: makes the copies smaller.
  """
  order = rng.permutation(len(originals.y))
  rounds, place = np.divmod(np.arange(shifted), len(order))
  picked, which = order[place], (place + rounds) % len(SHIFTS)  # a source that comes again gets the next shift
  x = originals.x[picked]
  for number, shift in enumerate(SHIFTS.values()):
    x[which == number] = shift(rng, x[which == number])
  turned = order[(np.arange(rotated) + shifted) % len(order)]
  x = np.concatenate([x, _turned(rng, originals.x[turned])])
  kinds = np.concatenate([which, np.full(rotated, KINDS.index("rotated"))])
  return Seen(small(x), kinds, np.concatenate([originals.y[picked], originals.y[turned]]))


def from_elsewhere(
  name: str, request: Request, shape: tuple[int, int, int], side: int | None, num_classes: int
) -> Pixels:
  """The training images of another set as this run's (`jdistill.tasks.junk.fitted`).

  Raises:
    UserError: it is unknown, or has other classes or images that do not fit.
  """
  found = other("elsewhere", name, request)
  if found.num_classes != num_classes:
    raise UserError(
      f"task.elsewhere={name!r}: {found.num_classes} classes, and {request.dataset!r} has {num_classes}; the same"
      " classes are needed"
    )
  return Pixels(fitted("elsewhere", name, found.train_x, request, shape, side), found.train_y.astype(np.int32))


def others(rng: np.random.Generator, name: str, found: Pixels, shifted: int, rotated: int) -> Seen:
  """`shifted` of another set's images as they are, and `rotated` others turned.

  Raises:
    UserError: there are not that many.
  """
  if shifted + rotated > len(found.y):
    raise UserError(
      f"task.shifted_size={shifted}: with {rotated} turned ones that is more than the {len(found.y)} images of"
      f" {name!r}; lower it"
    )
  picked = rng.permutation(len(found.y))[: shifted + rotated]
  x = found.x[picked]
  x[shifted:] = _turned(rng, x[shifted:])
  kinds = np.repeat([KINDS.index("elsewhere"), KINDS.index("rotated")], [shifted, rotated])
  return Seen(x, kinds, found.y[picked])


def _turned(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
  return rotate(x, rng.uniform(30, 330, len(x))).astype(np.float32)
