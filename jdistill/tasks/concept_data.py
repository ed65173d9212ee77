"""Images of known classes and of concepts beside them, and the few that a student sees of its own."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jdistill.base import Batch, UserError
from jdistill.tasks import images
from jdistill.tasks.samples import SPREAD


def _bar(x: np.ndarray) -> np.ndarray:
  middle, barred = x.shape[1] // 2, x.copy()
  barred[:, middle] = 1
  return barred


STYLES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
  "inverted": lambda x: 1 - x,
  "bar": _bar,
  "mirrored": lambda x: x[:, :, ::-1],
  "upended": lambda x: x[:, ::-1],
}


class Concept(NamedTuple):
  """A class of the data, in a style; `""` for none."""

  number: int
  style: str


class Part(NamedTuple):
  """One split: known classes, and all images of every concept; scaled."""

  x: np.ndarray
  y: np.ndarray
  concepts: tuple[np.ndarray, ...]


class Data(NamedTuple):
  train: Part
  validation: Part
  test: Part
  classes: tuple[int, ...]
  mean: float
  scale: float


def concepts_of(names: tuple[str, ...], classes: int) -> list[Concept]:
  """Concepts by their names."""
  if not names or len(set(names)) < len(names):
    raise UserError(f"task.concepts={tuple(names)}: name each concept once, and one at least")
  found = []
  for name in names:
    number, _, style = str(name).partition("_")
    if not number.isdecimal() or int(number) >= classes:
      raise UserError(f"task.concepts: {name!r} is of no class; begin with one of 0 to {classes - 1}")
    if style and style not in STYLES:
      raise UserError(f"task.concepts: {name!r} has no known style; choose one of {', '.join(STYLES)}")
    found.append(Concept(int(number), style))
  return found


def known_of(given: tuple[int, ...], wanted: list[Concept], names: tuple[str, ...], classes: int) -> tuple[int, ...]:
  """The classes of teachers, rising."""
  plain = {one.number for one in wanted if not one.style}
  known = tuple(sorted(set(given))) or tuple(number for number in range(classes) if number not in plain)
  if len(known) < 2 or known[-1] >= classes:
    raise UserError(f"task.known_classes={given}: must be two classes at least, of 0 to {classes - 1}")
  for one, name in zip(wanted, names, strict=True):
    if not one.style and one.number in known:
      raise UserError(
        f"task.concepts: class {name!r} is among the known classes, and so no new condition; leave it out of "
        f"known_classes, or give it a style, such as '{name}_inverted'"
      )
  return known


def scaled(found: images.Images, wanted: list[Concept], known: tuple[int, ...]) -> Data:
  """All splits, shifted and scaled as the training images of known classes need it."""
  own = found.train.x[np.isin(found.train.y, known)]
  mean, deviation = float(np.mean(own)), float(np.std(own))
  if deviation == 0:
    raise UserError("dataset: all pixels are the same; give images that differ")
  scale = SPREAD / deviation

  def part(given: Batch) -> Part:
    x, y = np.asarray(given.x, np.float32), np.asarray(given.y)
    old = np.isin(y, known)
    styled = (STYLES.get(one.style, lambda x: x)(x[y == one.number]) for one in wanted)
    own = tuple(np.float32((one - mean) * scale) for one in styled)
    return Part(np.float32((x[old] - mean) * scale), np.searchsorted(known, y[old]).astype(np.int32), own)

  validation = found.validation if len(found.validation.y) else found.train
  return Data(part(found.train), part(validation), part(found.test), known, mean, scale)


def check_sizes(data: Data, names: tuple[str, ...], references: int, prior: int) -> None:
  for name, own, validation, test in zip(
    names, data.train.concepts, data.validation.concepts, data.test.concepts, strict=True
  ):
    if references >= len(own):
      raise UserError(
        f"task.reference_size={references}: concept {name!r} has {len(own)} training images, of which some must be left"
        " to compare with; lower it"
      )
    if min(len(validation), len(test)) < 2:
      raise UserError(f"task.concepts: {name!r} has fewer than 2 held-out images; raise validation_size and test_size")
  if prior > len(data.train.y):
    raise UserError(f"task.prior_size={prior}: there are {len(data.train.y)} images of known classes; lower it")


def references(data: Data, seed: int, size: int, student: int) -> np.ndarray:
  """Positions of a student's references among the training images of its concept."""
  own = data.train.concepts[student % len(data.train.concepts)]
  return np.random.default_rng((seed, 53, student)).permutation(len(own))[:size]
