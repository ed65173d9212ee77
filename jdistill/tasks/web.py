"""The original images are gone, and what can be had instead is a web pool: shifted, turned and foreign images."""

from typing import Literal

import numpy as np

from jdistill.base import Batch, UserError
from jdistill.data import preprocess
from jdistill.schema import Count, Size, validated
from jdistill.tasks import images
from jdistill.tasks.junk import foreign
from jdistill.tasks.pool import KINDS, Pixels, copies, from_elsewhere, others
from jdistill.tasks.shifts import middle, shrink
from jdistill.tasks.task import Request, Task, numbered, take


@validated("task")
def web(
  request: Request,
  *,
  crop: Count | None = None,
  side: Count | None = None,
  teacher_size: Count = 2000,
  shifted_size: Count = 1500,
  rotated_size: Size = 500,
  junk_size: Size = 1500,
  elsewhere: str | None = None,
  junk: str = "drawn",
  pool: Literal["web", "original"] = "web",
) -> Task:
  """A teacher of clean labelled images, and students with an unlabelled pool that is not of their kind.

  The training images that are left when teacher and validation have theirs are what the pool is made from: copies with
  inverted, blurred or dimmed pixels (in turn), and copies turned by 30 to 330 degrees. To them comes junk: images of
  other things. Students are judged on test images as they are.

  The pool's labels are all 0 and mean nothing. For figures, never for training: `extra["inside"]` is true for images
  that show one of the classes, `extra["kind"]` is the position in `KINDS`, `extra["hidden_label"]` the class of the
  image that a copy was made from, -1 for junk.

  Args:
    request: which images.
    crop: only so many pixels in the middle of the set's images are used, on either side.
    side: to make images smaller: they are padded with zeros to a multiple of it, and blocks of pixels are averaged.
    teacher_size: clean labelled images of the teacher.
    shifted_size, rotated_size, junk_size: images of the pool. Sources are used again, with another shift or angle,
      where there are too few.
    elsewhere: the name or path of another image set with the same classes, from whose training images `shifted_size`
      are taken as they are and `rotated_size` others turned.
    junk: `"drawn"` (random shapes, lines and textures), or the name or path of another image set. Without `side`, it
      and `elsewhere` have to have images of the same size as the set (after `crop`).
    pool: `"web"`, or `"original"` for a control whose students see the teacher's own images, without labels.

  Raises:
    UserError: no image is left to make copies from, junk or images from elsewhere of another size or too few of them,
      other classes there, an unknown pool, or a side that is not smaller than the images.
  """
  loaded = images.load(request)
  cropped = (lambda x: x) if crop is None else (lambda x: middle(x, crop))
  small = (lambda x: x) if side is None else (lambda x: shrink(x, side))
  train = Pixels(small(cropped(loaded.train_x)), loaded.train_y.astype(np.int32))
  scale = preprocess.fit(request.preprocessing, train.x)
  network = lambda x: np.asarray(preprocess.transform(scale, np.asarray(x, np.float32)), np.float32)  # noqa: E731
  held, taught, source = images.shares(request, train.y, loaded.num_classes, teacher_size)
  if not len(source):
    raise UserError(
      f"task.teacher_size={teacher_size}: no image is left to make the pool from; lower it, or validation_size"
    )

  everything = numbered(network(train.x), train.y)
  rng = np.random.default_rng((request.seed, 41))
  if pool == "original":
    own = take(everything, taught)
    students = own._replace(y=np.zeros_like(own.y), extra=_extra(np.zeros(len(own.y), np.int64), own.y))
  else:
    shape = cropped(loaded.test_x[:1]).shape[1:]
    if elsewhere is None:
      originals = Pixels(cropped(np.asarray(loaded.train_x, np.float32)[source]), train.y[source])
      seen = copies(rng, originals, shifted_size, rotated_size, small)
    else:
      found = from_elsewhere(elsewhere, request, shape, side, loaded.num_classes)
      seen = others(rng, elsewhere, found, shifted_size, rotated_size)
    x = np.concatenate([seen.x, foreign(junk, request, rng, junk_size, shape, side)])
    kinds = np.concatenate([seen.kinds, np.full(junk_size, KINDS.index("junk"))])
    hidden = np.concatenate([seen.hidden, np.full(junk_size, -1)])
    students = numbered(network(x), np.zeros(len(x), np.int32), **_extra(kinds, hidden))
  members = np.arange(len(students.y))
  return Task(
    data=students,
    members=lambda seed: members,
    teacher=take(everything, taught),
    validation=take(everything, held),
    test=numbered(network(small(cropped(loaded.test_x))), loaded.test_y.astype(np.int32)),
    num_classes=loaded.num_classes,
    input_shape=train.x.shape[1:],
    notes=(
      f"teacher: {len(taught)} clean labelled images; choices on {len(held)} held-out ones; test: {len(loaded.test_y)}",
      _describe(students, f"made from {len(source)} others of the set" if elsewhere is None else f"with {elsewhere}")
      if pool == "web"
      else f"students: the teacher's {len(taught)}, without labels",
    ),
  )


def _extra(kinds: np.ndarray, hidden: np.ndarray) -> dict[str, np.ndarray]:
  hidden = hidden.astype(np.int32)
  return {"inside": hidden >= 0, "kind": kinds.astype(np.int32), "hidden_label": hidden}


def _describe(pool: Batch, origin: str) -> str:
  counts = np.bincount(pool.extra["kind"], minlength=len(KINDS))
  parts = ", ".join(f"{count} {name}" for name, count in zip(KINDS, counts, strict=True) if count)
  return f"students: a pool of {len(pool.y)} images without labels, {origin}: {parts}"
