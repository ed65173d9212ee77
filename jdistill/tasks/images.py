"""Image sets in network space, divided into training, validation and test examples."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jdistill import data
from jdistill.base import Batch, UserError
from jdistill.data import preprocess
from jdistill.data.subset import balanced_indices
from jdistill.tasks.task import Request, numbered, take


class Images(NamedTuple):
  """A labelled image set as tasks divide it.

  Attributes:
    train: without the validation examples.
    validation, test: held out.
    num_classes: number of classes.
    transform: pixels in [0, 1] to network space, as fitted on all training images.
    pixels: `[n,H,W,C]` of `train`, in [0, 1].
    about: what a `Task` tells of its images: `class_names`, `preprocessing` and `source`.
  """

  train: Batch
  validation: Batch
  test: Batch
  num_classes: int
  transform: Callable[[np.ndarray], np.ndarray]
  pixels: np.ndarray
  about: Mapping[str, Any]


def load(request: Request) -> data.Dataset:
  """Reads what a run asks for, pixels in [0, 1].

  Raises:
    UserError: the set is unknown or broken.
  """
  return request.load(
    request.dataset,
    data_dir=request.data_dir,
    train_size=request.train_size,
    test_size=request.test_size,
    seed=request.seed,
  )


def few(request: Request, labels: np.ndarray, size: int | None, classes: int, *, seed: int, key: str) -> np.ndarray:
  """The class-balanced few examples that the student of one seed draws.

  Args:
    request: its seed decides, too.
    labels: of all examples that may be drawn.
    size: how many; `None` for all.
    classes: number of classes.
    seed: of the student.
    key: what asked for so many, for messages.

  Raises:
    UserError: there are not that many.
  """
  if size is None:
    return np.arange(len(labels))
  own = int(np.random.default_rng((request.seed, 17, seed)).integers(2**31))
  return balanced_indices(labels, size, classes, seed=own, key=key)


def shares(request: Request, labels: np.ndarray, classes: int, teacher_size: int) -> tuple[np.ndarray, ...]:
  """Positions of validation, teachers and the rest, no two of them alike; the first two are class-balanced.

  Raises:
    UserError: there are not that many.
  """
  held = balanced_indices(labels, request.validation_size, classes, seed=request.seed, key="validation_size")
  rest = np.setdiff1d(np.arange(len(labels)), held)
  picked = balanced_indices(labels[rest], teacher_size, classes, seed=request.seed, key="task.teacher_size")
  return held, rest[picked], np.delete(rest, picked)


def read(request: Request) -> Images:
  """Reads an image set and holds a class-balanced part of its training images out.

  Raises:
    UserError: it is unknown or broken, or has too few images for the validation part.
  """
  loaded = load(request)
  fitted = request.fit(request.preprocessing, loaded.train_x)

  def transform(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(preprocess.transform(fitted, pixels), np.float32)

  labels = loaded.train_y.astype(np.int32)
  if request.validation_size >= len(labels):
    raise UserError(
      f"validation_size={request.validation_size}: the data have {len(labels)} training images; hold out fewer"
    )
  held = np.zeros(0, np.int64)
  if request.validation_size:
    held = balanced_indices(
      labels, request.validation_size, loaded.num_classes, seed=request.seed, key="validation_size"
    )
  rest = np.setdiff1d(np.arange(len(labels)), held)
  train = Batch(transform(loaded.train_x), labels, loaded.train_ids)
  test = numbered(transform(loaded.test_x), loaded.test_y.astype(np.int32))
  pixels = np.asarray(loaded.train_x, np.float32)[rest]
  source = {
    "name": request.dataset,
    "fingerprint": loaded.fingerprint,
    "train_size": request.train_size,
    "test_size": request.test_size,
    "seed": request.seed,
  }
  about = {"class_names": loaded.class_names, "preprocessing": fitted, "source": source}
  return Images(take(train, rest), take(train, held), test, loaded.num_classes, transform, pixels, about)
