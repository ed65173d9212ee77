"""A concept that a denoiser does not know, shown by a few images: personalisation, judged on images nobody saw."""

import functools
from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np

from jdistill.base import Batch, UserError
from jdistill.diffusion import Draws
from jdistill.schema import Count, Range, Size, validated
from jdistill.tasks import images
from jdistill.tasks.concept_data import Data, Part, check_sizes, concepts_of, known_of, references, scaled
from jdistill.tasks.concept_judge import OLD, Judge
from jdistill.tasks.task import Exhibit, Finished, Request, Task, numbered

_SHOWN = 10  # images in a row of an exhibit


@validated("task")
def concept(
  request: Request,
  *,
  concepts: tuple[str, ...] = ("9", "3_inverted", "5_bar", "7_mirrored", "2_upended"),
  known_classes: tuple[Size, ...] = (),
  reference_size: Count = 5,
  repeats: Count = 20,
  prior_size: Size = 0,
  draws: Annotated[int, Range(2)] = 100,
  judge: Literal["concept", "similarity", "concept_frechet"] = "concept",
) -> Task:
  """Personalisation: a student learns a concept of a few images, and should keep the classes that it knows.

  Teachers are trained on the known classes, whose numbers are the first conditions. One condition more, the last, has
  no example there: the token. The student of seed `s` gets `reference_size` images of concept `s` modulo their number,
  drawn by the seed, with the token as `y`, each `repeats` times in a pass, and `prior_size` images of known classes.

  Held-out examples are `jdistill.diffusion.Draws` of the token and of known classes. A student is judged by those of
  its own concept (`Task.judged_by`); a teacher by those of all concepts. Features and probabilities are those of a
  classifier of known classes and concepts that is trained on all training images (scikit-learn's `MLPClassifier`) and
  that no student sees:

  - `concept`: the mean probability that a sample of the token is of the concept;
  - `similarity`: the mean cosine between features (hidden units) of samples and of held-out images of the concept;
  - `concept_frechet`: the Frechet distance between these features, which also sees samples that are all alike;
  - `diversity`: the mean distance between two samples, divided by that of held-out images;
  - `nearest`: the mean distance of a sample to the nearest reference, per root of the number of pixels;
  - `copied`: that distance divided by what held-out images have: far below 1 where references are memorised;
  - `old_frechet`: the Frechet distance between features of samples of known classes and real ones, which tells what was
    forgotten; `old_agreement`: the share of these that the classifier finds to be of their condition.

  The floor is what real training images get that are no references.

  Args:
    request: images by class; `preprocessing` must be "none".
    concepts: `"CLASS"` or `"CLASS_STYLE"` with a style `inverted`, `bar`, `mirrored` or `upended`.
    known_classes: that teachers are trained on; all but those that are concepts without a style where open.
    reference_size: images of a concept that a student sees.
    repeats: of each in a pass.
    prior_size: images of known classes beside them.
    draws: samples of a concept; of known classes there are as many as real ones.
    judge: the figure that is the score.

  Raises:
    UserError: another preprocessing; no concept, one that is unknown, named twice, or among the known classes; too few
      images.
  """
  if request.preprocessing != "none":
    raise UserError(f"preprocessing={request.preprocessing!r}: samples are scaled as a whole; use 'none'")
  found = images.read(request)
  wanted = concepts_of(concepts, found.num_classes)
  known = known_of(tuple(known_classes), wanted, concepts, found.num_classes)
  data = scaled(found, wanted, known)
  check_sizes(data, concepts, reference_size, prior_size)
  token, pick = len(known), functools.partial(references, data, request.seed, reference_size)
  train, starts = _examples(data, token)

  def members(seed: int) -> np.ndarray:
    rng = np.random.default_rng((request.seed, 59, seed))
    own = starts[seed % len(wanted)] + pick(seed)
    prior = rng.permutation(len(data.train.y))[:prior_size]
    return np.concatenate([np.tile(own, repeats), prior]).astype(np.int64)

  judged = Judge(data, pick, token, request.seed)
  validation = _held(data.validation, draws, token, request.seed, 1)
  test = _held(data.test, draws, token, request.seed, 2)
  names = [found.about["class_names"][number] for number in known]
  return Task(
    data=train,
    members=members,
    teacher=numbered(data.train.x, data.train.y),
    validation=validation,
    test=test,
    num_classes=token + 1,
    input_shape=data.train.x.shape[1:],
    kind="samples",
    score=judged.score,
    metric=judge,
    higher=judge != "concept_frechet",
    notes=(
      f"{len(data.train.y):,} training images of {token} known classes; {reference_size} references of each student, "
      f"of {len(wanted)} concepts by seed: {', '.join(concepts)}; test: {draws} samples of a concept beside "
      f"{min(map(len, data.test.concepts))} or more real images, and {int(np.sum(test.extra['concept'] == OLD))} of "
      "known classes",
    ),
    class_names=(*names, "concept"),
    floor=judged.floor(test),
    exhibit=_exhibit(data, test, pick),
    judged_by=lambda seed, held: _judged_by(held, seed, len(wanted)),
  )


def _examples(data: Data, token: int) -> tuple[Batch, list[int]]:
  """Images of known classes and then of every concept, and where these begin."""
  sizes = [len(data.train.y), *map(len, data.train.concepts)]
  y = np.concatenate([data.train.y, np.full(sum(sizes[1:]), token, np.int32)])
  return numbered(np.concatenate([data.train.x, *data.train.concepts]), y), np.cumsum(sizes)[:-1].tolist()


def _held(part: Part, draws: int, token: int, seed: int, number: int) -> Batch:
  """Noise and conditions of every concept and then of known classes, each row with a real image."""
  rng = np.random.default_rng((seed, 61, number))
  old = rng.permutation(len(part.y))
  real = [np.resize(rng.permutation(one), (draws, *one.shape[1:])) for one in part.concepts] + [part.x[old]]
  cond = np.concatenate([np.full(draws * len(part.concepts), token, np.int32), part.y[old]])
  concept = np.repeat([*range(len(part.concepts)), OLD], [*[draws] * len(part.concepts), len(old)])
  eps = rng.normal(size=(len(cond), *part.x.shape[1:])).astype(np.float32)
  noise = Draws(eps, cond, np.arange(len(cond), dtype=np.int32))
  extra = {"real": np.concatenate(real), "concept": concept.astype(np.int32)}
  return numbered(noise, cond, **extra, student=np.full(len(cond), -1, np.int32))


def _judged_by(held: Batch, seed: int, concepts: int) -> Batch:
  """The rows of a student's own concept and of known classes."""
  number = held.extra["concept"]
  rows = np.flatnonzero((number == seed % concepts) | (number == OLD))
  take = lambda leaf: np.asarray(leaf)[rows]  # noqa: E731
  extra = {name: take(value) for name, value in held.extra.items()}
  extra["student"] = np.full(len(rows), seed, np.int32)
  return held._replace(x=Draws(*map(take, held.x)), y=take(held.y), ids=take(held.ids), extra=extra)


def _exhibit(data: Data, test: Batch, pick: Callable[[int], np.ndarray]) -> Exhibit | None:
  """Samples of the first seed's concept and of known classes; the same draws for all arms."""
  if data.train.x.shape[-1] not in (1, 3):  # neither grey nor colour
    return None
  number = test.extra["concept"]
  new, old = np.flatnonzero(number == 0)[: 2 * _SHOWN], np.flatnonzero(number == OLD)[:_SHOWN]
  rows = np.concatenate([new, old])
  draws = Draws(*(np.asarray(leaf)[rows] for leaf in test.x))

  def pixels(x: np.ndarray) -> np.ndarray:
    return np.clip(np.nan_to_num(np.asarray(x) / data.scale + data.mean), 0, 1)

  def make(student: Finished) -> np.ndarray:
    return pixels(student.predict(draws))

  shown = np.resize(data.train.concepts[0][pick(0)], (_SHOWN, *data.train.x.shape[1:]))
  real = pixels(np.concatenate([shown, test.extra["real"][new[: len(new) - _SHOWN]], test.extra["real"][old]]))
  about = (
    "Samples of every arm's first student, from the same noise, not selected; the last row are known classes. Of real "
    "data the first row are the references, repeated."
  )
  return Exhibit("images", about, make, real, _SHOWN)
