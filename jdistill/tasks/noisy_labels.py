"""Wrong labels in half of the classes, and a teacher that is wrong in the other half: whom to believe differs."""

from typing import Literal

import numpy as np

from jdistill.base import Batch, UserError
from jdistill.evaluation.scores import classification_scores
from jdistill.schema import Count, Share, validated
from jdistill.tasks import images
from jdistill.tasks.overlap import refuse_overlap
from jdistill.tasks.task import Request, Task


@validated("task")
def noisy_labels(
  request: Request,
  *,
  student_size: Count | None = None,
  label_noise: Share = 0.4,
  teacher_noise: Share = 0.8,
  trains_on: Literal["noisy", "held_out"] = "noisy",
  noisy_classes: Literal["half", "all"] = "half",
) -> Task:
  """Labelled images; students see wrong labels in half of the classes, the teacher learned wrong ones in the other.

  A random half of the classes is the students' noisy one: there, each label is replaced with probability `label_noise`
  by another class, all being as likely (symmetric noise). Teachers see the right labels there; in the other half, each
  of theirs is replaced with probability `teacher_noise` by the next class of that half, so that they learn a systematic
  mistake. Validation and test examples have the right labels.

  Args:
    request: which images.
    student_size: examples per student, balanced over the right classes; `None` for all of the training part.
    label_noise, teacher_noise: probabilities.
    trains_on: `"noisy"`, or `"held_out"` for a control that trains on the validation examples and their right labels
      instead: what these are worth by themselves.
    noisy_classes: the students' noisy classes: a random `"half"`, or `"all"`, which leaves teachers none to be wrong
      in.

  Returns:
    A `Task`; `extra["clean_labels"]` has the right labels.

  Raises:
    UserError: fewer than 4 classes, or validation examples among the training ones.
  """
  found = images.read(request)
  if found.num_classes < 4:
    raise UserError(f"dataset={request.dataset!r}: {found.num_classes} classes; halves with a mistake in them need 4")
  refuse_overlap(found.train, found.validation)
  clean = found.train.y
  rng = np.random.default_rng((request.seed, 29))
  classes = rng.permutation(found.num_classes).astype(np.int32)
  noisy, wrong = np.split(classes, [found.num_classes // 2 if noisy_classes == "half" else found.num_classes])
  labels = _symmetric(rng, clean, np.isin(clean, noisy) & (rng.random(len(clean)) < label_noise), found.num_classes)
  taught = _cyclic(clean, np.isin(clean, wrong) & (rng.random(len(clean)) < teacher_noise), wrong)
  data = found.train._replace(y=labels, extra={"clean_labels": clean})

  def members(seed: int) -> np.ndarray:
    if trains_on == "held_out":
      return np.arange(len(data.y))
    return images.few(request, clean, student_size, found.num_classes, seed=seed, key="task.student_size")

  teacher = found.train._replace(y=taught)
  if trains_on == "held_out":
    data = found.validation._replace(extra={"clean_labels": found.validation.y})
  return Task(
    data=data,
    members=members,
    teacher=teacher,
    validation=found.validation,
    test=found.test,
    num_classes=found.num_classes,
    input_shape=found.train.x.shape[1:],
    score=_scores(noisy, wrong),
    notes=(
      f"students: labels of classes {_listed(noisy)} wrong with probability {label_noise:g} "
      f"({int((labels != clean).sum())} of {len(clean)}); {len(members(0))} examples each",
      f"teacher: labels of classes {_listed(wrong)} wrong with probability {teacher_noise:g} "
      f"({int((taught != clean).sum())} of {len(clean)})"
      if len(wrong)
      else f"teacher: {len(clean)} training images with right labels",
      f"right labels: {len(found.validation.y)} held-out examples (choices, outer updates) and {len(found.test.y)} of "
      "the test",
    ),
  )


def _symmetric(rng: np.random.Generator, labels: np.ndarray, replaced: np.ndarray, count: int) -> np.ndarray:
  other = (labels + rng.integers(1, count, len(labels))) % count
  return np.where(replaced, other, labels).astype(np.int32)


def _cyclic(labels: np.ndarray, replaced: np.ndarray, classes: np.ndarray) -> np.ndarray:
  after = np.arange(labels.max() + 1)
  after[classes] = np.roll(classes, -1)
  return np.where(replaced, after[labels], labels).astype(np.int32)


def _scores(noisy: np.ndarray, wrong: np.ndarray):
  """Accuracy, and that on each half of the classes where there are halves."""

  def score(predict, data: Batch) -> dict[str, float]:
    out = classification_scores(predict, data)
    if not len(wrong):
      return out
    del out["balanced_accuracy"]
    hits = np.argmax(predict(data.x), axis=-1) == data.y
    for name, part in (("noisy_half", noisy), ("wrong_half", wrong)):
      out[name] = float(hits[np.isin(data.y, part)].mean())
    return out

  return score


def _listed(classes: np.ndarray) -> str:
  return ", ".join(str(c) for c in sorted(classes))
