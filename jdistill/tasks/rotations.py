"""A pretext task without labels: by how many quarter turns an image was rotated."""

import numpy as np

from jdistill.base import Batch, UserError
from jdistill.schema import Count, validated
from jdistill.tasks import images
from jdistill.tasks.task import Request, Task, numbered

_TURNS = ("0 degrees", "90 degrees", "180 degrees", "270 degrees")


def turned(x: np.ndarray) -> Batch:
  """All four rotations of every image, and by how many quarter turns each was rotated.

  Args:
    x: `[n, side, side, channels]`.

  Returns:
    A `Batch` of `4 n` examples, those of an image side by side.

  Raises:
    UserError: images that are not square.
  """
  if x.shape[1] != x.shape[2]:
    raise UserError(f"task.name='rotations': images of {x.shape[1]} x {x.shape[2]} pixels are not square; crop them")
  all_four = np.stack([np.rot90(x, turns, (1, 2)) for turns in range(4)], 1).reshape(-1, *x.shape[1:])
  return numbered(np.ascontiguousarray(all_four), np.tile(np.arange(4, dtype=np.int32), len(x)))


@validated("task")
def rotations(request: Request, *, teacher_size: Count | None = None) -> Task:
  """Images of a run, rotated by 0, 90, 180 or 270 degrees, which a network has to tell apart; labels are not used.

  It stands for the large data that a public network was trained on, where there is none: what such a network knows is
  of another task.

  Args:
    request: which images.
    teacher_size: how many of the training images; `None` for all.

  Raises:
    UserError: images that are not square, or fewer than `teacher_size`.

  References:
    Gidaris, Singh and Komodakis, "Unsupervised Representation Learning by Predicting Image Rotations" (arXiv
    1803.07728).
  """
  found = images.read(request)
  count = len(found.train.y)
  if teacher_size is not None and teacher_size > count:
    raise UserError(f"task.teacher_size={teacher_size}: there are {count} training images; lower it")
  rng = np.random.default_rng((request.seed, 53))
  own = np.arange(count) if teacher_size is None else np.sort(rng.permutation(count)[:teacher_size])
  train, validation, test = (turned(x) for x in (found.train.x[own], found.validation.x, found.test.x))
  return Task(
    data=train,
    members=lambda seed: np.arange(len(train.y)),
    teacher=train,
    validation=validation,
    test=test,
    num_classes=4,
    input_shape=found.train.x.shape[1:],
    notes=(f"{len(own)} training images in each of four rotations, without their labels",),
    **(found.about | {"class_names": _TURNS}),
  )
