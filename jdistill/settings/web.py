"""The original images are gone, and what can be had instead is a web pool: shifted, turned and foreign images."""

from typing import NamedTuple

import numpy as np

from jdistill.base import Data, UserError
from jdistill.data import preprocess
from jdistill.data.subset import balanced_indices
from jdistill.evaluation.scores import classification_scores
from jdistill.settings import images
from jdistill.settings.junk import foreign
from jdistill.settings.setting import Request, Setting, take
from jdistill.settings.shifts import SHIFTS, rotate, shrink

KINDS = (*SHIFTS, "rotated", "junk")
POOLS = ("web", "original")


class _Pixels(NamedTuple):
  """Images in [0, 1] and their classes."""

  x: np.ndarray
  y: np.ndarray


def web(
  request: Request,
  *,
  side: int | None = None,
  teacher_size: int = 2000,
  shifted_size: int = 1500,
  rotated_size: int = 500,
  junk_size: int = 1500,
  junk: str = "drawn",
  pool: str = "web",
) -> Setting:
  """A teacher of clean labelled images, and students with an unlabelled pool that is not of their kind.

  The training images that are left when teacher and validation have theirs are what the pool is made from: copies with
  inverted, blurred or dimmed pixels (in turn), and copies turned by 30 to 330 degrees. To them comes junk: images of
  other things. Students are judged on test images as they are.

  The pool's labels are all 0 and mean nothing. For figures, never for training: `extra["inside"]` is true for images
  that show one of the classes, `extra["kind"]` is the position in `KINDS`, `extra["hidden_label"]` the class of the
  image that a copy was made from, -1 for junk.

  Args:
    request: which images.
    side: to make images smaller: they are padded with zeros to a multiple of it, and blocks of pixels are averaged.
    teacher_size: clean labelled images of the teacher.
    shifted_size, rotated_size, junk_size: images of the pool. Sources are used again, with another shift or angle,
      where there are too few.
    junk: `"drawn"` (random shapes, lines and textures), or the name or path of another image set of the same size.
    pool: `"web"`, or `"original"` for a control whose students see the teacher's own images, without labels.

  Raises:
    UserError: no image is left to make copies from, junk of another size or too little of it, an unknown pool, or a
      side that is not smaller than the images.
  """
  if pool not in POOLS:
    raise UserError(f"setting.pool={pool!r}: unknown; choose one of {', '.join(POOLS)}")
  loaded = images.load(request)
  small = (lambda x: x) if side is None else (lambda x: shrink(x, side))
  train = _Pixels(small(loaded.train_x), loaded.train_y.astype(np.int32))
  fitted = preprocess.fit(request.preprocessing, train.x)
  network = lambda x: np.asarray(preprocess.transform(fitted, np.asarray(x, np.float32)), np.float32)  # noqa: E731
  held, taught, source = _divide(train.y, request, loaded.num_classes, teacher_size)

  everything = Data(network(train.x), train.y, np.arange(len(train.y), dtype=np.int32))
  sizes = (shifted_size, rotated_size, junk_size)
  rng = np.random.default_rng((request.seed, 41))
  if pool == "original":
    own = take(everything, taught)
    students = own._replace(y=np.zeros_like(own.y), extra=_extra(np.zeros(len(own.y), np.int64), own.y))
  else:
    originals = _Pixels(np.asarray(loaded.train_x, np.float32)[source], train.y[source])
    made, kinds, hidden = _pool(rng, originals, sizes, lambda n: foreign(junk, request, rng, n, loaded.image_shape))
    ids = np.arange(len(made), dtype=np.int32)
    students = Data(network(small(made)), np.zeros(len(made), np.int32), ids, _extra(kinds, hidden))
  test_y = loaded.test_y.astype(np.int32)
  members = np.arange(len(students.y))
  return Setting(
    data=students,
    members=lambda seed: members,
    teacher=take(everything, taught),
    validation=take(everything, held),
    test=Data(network(small(loaded.test_x)), test_y, np.arange(len(test_y), dtype=np.int32)),
    num_classes=loaded.num_classes,
    input_shape=train.x.shape[1:],
    kind="images",
    score=classification_scores,
    metric="accuracy",
    notes=(
      f"teacher: {len(taught)} clean labelled images; choices on {len(held)} held-out ones; test: {len(test_y)}",
      _describe(students, len(source)) if pool == "web" else f"students: the teacher's {len(taught)}, without labels",
    ),
  )


def _divide(labels: np.ndarray, request: Request, classes: int, teacher_size: int) -> tuple[np.ndarray, ...]:
  """Positions of validation, teacher and source images, no two of them alike."""
  held = balanced_indices(labels, request.validation_size, classes, seed=request.seed, key="validation_size")
  rest = np.setdiff1d(np.arange(len(labels)), held)
  picked = balanced_indices(labels[rest], teacher_size, classes, seed=request.seed, key="setting.teacher_size")
  source = np.delete(rest, picked)
  if not len(source):
    raise UserError(
      f"setting.teacher_size={teacher_size}: no image is left to make the pool from; lower it, or validation_size"
    )
  return held, rest[picked], source


def _pool(rng: np.random.Generator, originals: _Pixels, sizes: tuple[int, int, int], junk) -> tuple[np.ndarray, ...]:
  """Images in [0, 1], their kinds and the classes of what they were made from."""
  shifted, rotated, foreign = sizes
  order = rng.permutation(len(originals.y))
  rounds, place = np.divmod(np.arange(shifted), len(order))
  picked, which = order[place], (place + rounds) % len(SHIFTS)  # a source that comes again gets the next shift
  x = originals.x[picked]
  for number, shift in enumerate(SHIFTS.values()):
    x[which == number] = shift(rng, x[which == number])
  turned = order[(np.arange(rotated) + shifted) % len(order)]
  parts = [x, rotate(originals.x[turned], rng.uniform(30, 330, rotated)), junk(foreign)]
  kinds = np.concatenate([which, np.full(rotated, len(SHIFTS)), np.full(foreign, len(SHIFTS) + 1)])
  hidden = np.concatenate([originals.y[picked], originals.y[turned], np.full(foreign, -1)])
  return np.concatenate(parts).astype(np.float32), kinds, hidden


def _extra(kinds: np.ndarray, hidden: np.ndarray) -> dict[str, np.ndarray]:
  hidden = hidden.astype(np.int32)
  return {"inside": hidden >= 0, "kind": kinds.astype(np.int32), "hidden_label": hidden}


def _describe(pool: Data, sources: int) -> str:
  counts = np.bincount(pool.extra["kind"], minlength=len(KINDS))
  parts = ", ".join(f"{count} {name}" for name, count in zip(KINDS, counts, strict=True))
  return f"students: a pool of {len(pool.y)} images without labels, made from {sources} others of the set: {parts}"
