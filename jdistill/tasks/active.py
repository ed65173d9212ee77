"""Few labelled images, a pool to ask about, and a teacher with mistakes of a known kind."""

from collections.abc import Mapping
from typing import Annotated

import numpy as np

from jdistill.base import Batch, UserError
from jdistill.data.subset import balanced_indices
from jdistill.evaluation.scores import classification_scores
from jdistill.schema import Count, Range, Share, Size, validated
from jdistill.tasks import images
from jdistill.tasks.task import Predict, Request, Task


@validated("task")
def active(
  request: Request,
  *,
  start: Count = 30,
  teacher_size: Count | None = None,
  teacher_noise: Share = 0.0,
  minority: Size = 0,
  minority_share: Annotated[float, Range(0, 1)] = 0.1,
) -> Task:
  """Labelled images, of which a student knows few; the others are the pool that it asks about.

  Every seed draws its own class-balanced start. The labels of the pool are in the task, for whoever answers. The
  teacher learns from part of the training images: class-balanced but for `minority` random classes, of which it sees
  the share `minority_share` (at least one image each), and with each label replaced with probability `teacher_noise` by
  another class, all others equally likely.

  The score is `accuracy`, and with `minority` classes `minority`, the mean accuracy of these.

  Args:
    request: which images.
    start: labelled examples of each seed, balanced.
    teacher_size: images of the teacher before classes are thinned out; `None` for all.
    teacher_noise: probability of a wrong label.
    minority: how many classes the teacher sees little of.
    minority_share: of their images among the teacher's.

  Raises:
    UserError: more minority classes than classes, sizes that the data do not allow, or nothing left to ask about.
  """
  found = images.read(request)
  labels, classes = found.train.y, found.num_classes
  if minority >= classes:
    raise UserError(f"task.minority={minority}: must be below the number of classes, {classes}")
  if start >= len(labels):
    raise UserError(f"task.start={start}: leaves nothing of the {len(labels)} training images to ask about; lower it")
  rng = np.random.default_rng((request.seed, 59))
  rare = np.sort(rng.permutation(classes)[:minority])
  taught = _taught(request, labels, classes, teacher_size, rare, minority_share)
  noisy = _noisy(rng, labels[taught], teacher_noise, classes)
  teacher = images.take(found.train, taught)._replace(y=noisy)
  wrong = int((noisy != labels[taught]).sum())
  few = f"; few of classes {', '.join(map(str, rare))}" if minority else ""
  return Task(
    data=found.train,
    members=lambda seed: images.few(request, labels, start, classes, seed=seed, key="task.start"),
    teacher=teacher,
    validation=found.validation,
    test=found.test,
    num_classes=classes,
    input_shape=found.train.x.shape[1:],
    score=_scores(rare),
    notes=(
      f"students: {start} labelled images each and {len(labels) - start} to ask about",
      f"teacher: {len(taught)} images{few}; {wrong} of its labels are wrong",
      f"{len(found.validation.y)} held-out images; test: {len(found.test.y)}",
    ),
    **found.about,
  )


def _taught(request: Request, labels, classes: int, size: int | None, rare: np.ndarray, share: float) -> np.ndarray:
  """Positions of the teacher's images."""
  own = np.arange(len(labels))
  if size is not None:
    own = balanced_indices(labels, size, classes, seed=request.seed, key="task.teacher_size")
  kept = []
  for c in range(classes):
    members = own[labels[own] == c]
    kept.append(members[: max(1, round(share * len(members)))] if c in rare else members)
  return np.sort(np.concatenate(kept))


def _noisy(rng: np.random.Generator, labels: np.ndarray, noise: float, classes: int) -> np.ndarray:
  other = (labels + rng.integers(1, classes, len(labels))) % classes
  return np.where(rng.random(len(labels)) < noise, other, labels).astype(np.int32)


def _scores(rare: np.ndarray):
  """Accuracy, and the mean over the classes of which teachers saw little."""

  def score(predict: Predict, data: Batch) -> Mapping[str, float]:
    logits = predict(data.x)
    out = {"accuracy": classification_scores(lambda _: logits, data)["accuracy"]}
    hits = np.argmax(logits, axis=-1) == data.y
    own = [hits[data.y == c].mean() for c in rare if np.any(data.y == c)]
    return out | ({"minority": float(np.mean(own))} if own else {})

  return score
