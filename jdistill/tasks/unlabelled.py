"""Few labelled images and a pool without labels, in which images of the classes and junk are mixed."""

from typing import Annotated, Literal

import jax
import numpy as np

from jdistill.base import Batch, UserError
from jdistill.data import preprocess
from jdistill.schema import Count, Range, Size, validated
from jdistill.selection import near_duplicate_mask
from jdistill.tasks import images
from jdistill.tasks.junk import foreign
from jdistill.tasks.shifts import shrink
from jdistill.tasks.task import Request, Task, numbered, take


@validated("task")
def unlabelled(
  request: Request,
  *,
  side: Count | None = None,
  teacher_size: Count = 1500,
  labelled_size: Count = 300,
  pool_size: Count | None = None,
  junk_size: Size | None = None,
  junk: str = "drawn",
  pool: Literal["mixed", "none"] = "mixed",
  duplicate_threshold: Annotated[float, Range(-1, 1)] = 0.95,
) -> Task:
  """Teachers have labelled images; students a few of these, and a pool of others without labels.

  The pool are training images that neither teachers nor validation have, and junk: images of other things. Images of
  the pool that are nearly the same as one of validation or test are left out: those whose pixels, less the mean of all
  training images, have a cosine of at least `duplicate_threshold` with it.

  The labels of the pool are -1. `extra["labelled"]` and `extra["junk"]` are flags; the latter is for figures, never for
  training.

  Args:
    request: which images.
    side: to make images smaller: blocks of pixels are averaged (`jdistill.tasks.shifts.shrink`).
    teacher_size: labelled images of the teachers.
    labelled_size: how many of these each student has, balanced; every student draws its own.
    pool_size: other training images in the pool; `None` for all that are left.
    junk_size: junk in the pool; `None` for as many as there are others.
    junk: `"drawn"` (random shapes, lines and textures), or the name or path of another image set, whose images have the
      same size where `side` is not given.
    pool: `"mixed"`, or `"none"` for controls whose students have the labelled images alone.
    duplicate_threshold: a cosine.

  Raises:
    UserError: no image is left for the pool, or fewer than `pool_size`; junk of another size or too little of it; an
      unknown pool.
  """
  loaded = images.load(request)
  small = (lambda x: np.asarray(x, np.float32)) if side is None else (lambda x: shrink(x, side))
  pixels, labels = small(loaded.train_x), loaded.train_y.astype(np.int32)
  fitted = request.fit(request.preprocessing, pixels)

  def network(x: np.ndarray) -> np.ndarray:
    return np.asarray(preprocess.transform(fitted, x), np.float32)

  held, taught, others = images.shares(request, labels, loaded.num_classes, teacher_size)
  others = _pool(others, request, pool_size, teacher_size)
  wanted = len(others) if junk_size is None else junk_size
  junk_pixels = foreign(junk, request, np.random.default_rng((request.seed, 47)), wanted, loaded.image_shape, side)
  test_pixels = small(loaded.test_x)
  gathered = np.concatenate([pixels[others], junk_pixels])
  twins = _twins(gathered, np.concatenate([pixels[held], test_pixels]), pixels.mean(0), duplicate_threshold)
  is_junk = np.arange(len(gathered)) >= len(others)
  gathered, is_junk = gathered[~twins], is_junk[~twins]

  everything = numbered(network(pixels), labels)
  teacher = take(everything, taught)
  students = _union(teacher, network(gathered), is_junk)
  extra = np.arange(len(taught), len(students.y)) if pool == "mixed" else np.zeros(0, np.int64)

  def members(seed: int) -> np.ndarray:
    own = images.few(request, teacher.y, labelled_size, loaded.num_classes, seed=seed, key="task.labelled_size")
    return np.concatenate([own, extra])

  return Task(
    data=students,
    members=members,
    teacher=teacher,
    validation=take(everything, held),
    test=numbered(network(test_pixels), loaded.test_y.astype(np.int32)),
    num_classes=loaded.num_classes,
    input_shape=pixels.shape[1:],
    notes=(
      f"teachers: {len(taught)} labelled images; students: {labelled_size} of these each; choices on {len(held)} "
      f"held-out ones; test: {len(loaded.test_y)}",
      f"pool: {(~is_junk).sum()} images without labels and {is_junk.sum()} of junk ({junk}); {twins.sum()} near-"
      f"duplicates of held-out or test images left out" + ("" if pool == "mixed" else "; not used by these students"),
    ),
  )


def _pool(others: np.ndarray, request: Request, pool_size: int | None, teacher_size: int) -> np.ndarray:
  wanted = len(others) if pool_size is None else pool_size
  if not 0 < wanted <= len(others):
    raise UserError(
      f"task.pool_size={pool_size}: {len(others)} images are left for the pool; lower it, task.teacher_size="
      f"{teacher_size} or validation_size={request.validation_size}"
    )
  return np.sort(np.random.default_rng((request.seed, 43)).permutation(others)[:wanted])


def _twins(pool: np.ndarray, held_out: np.ndarray, mean: np.ndarray, threshold: float) -> np.ndarray:
  rows = [(part - mean).reshape(len(part), -1) for part in (pool, held_out)]
  return np.array(jax.device_get(near_duplicate_mask(*rows, threshold)))


def _union(labelled: Batch, pool: np.ndarray, is_junk: np.ndarray) -> Batch:
  count, more = len(labelled.y), len(pool)
  return numbered(
    np.concatenate([labelled.x, pool]),
    np.concatenate([labelled.y, np.full(more, -1, np.int32)]),
    labelled=np.arange(count + more) < count,
    junk=np.concatenate([np.zeros(count, bool), is_junk]),
  )
