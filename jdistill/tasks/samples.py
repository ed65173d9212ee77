"""Samples of a law that is known by examples: points of a mixture, or images; judged beside real data."""

import functools
import warnings
from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

import jax
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from jdistill.base import Batch, UserError
from jdistill.data.points import Mixture, mixture, mixtures
from jdistill.diffusion import Draws
from jdistill.evaluation.samples import (
  class_divergence,
  density_coverage,
  frechet_distance,
  mode_coverage,
  precision_recall,
  sliced_wasserstein,
)
from jdistill.schema import Count, Range, validated
from jdistill.tasks import images
from jdistill.tasks.task import Exhibit, Predict, Request, Task, numbered

SPREAD = 0.5  # the standard deviation that all data are brought to, which EDM's scalings expect
_POINTS = 4000  # training points of a mixture
_FEATURES, _PASSES = 64, 60  # of the classifier of images
_FITTED = 10_000  # training images that it sees at most
_SHOWN, _COLUMNS, _ROWS = 500, 10, 4  # draws of an exhibit, images in a row of it, and rows
_FEWEST = 10  # examples to be compared: fewer have no neighbours


class _Data(NamedTuple):
  """Real data in [n, height, width, channels], `(x - mean) scale`."""

  train: np.ndarray
  train_y: np.ndarray
  validation: np.ndarray
  validation_y: np.ndarray
  test: np.ndarray
  test_y: np.ndarray
  conditions: int
  mean: float
  scale: float
  names: tuple[str, ...]


@validated("task")
def samples(
  request: Request,
  *,
  conditions: Literal["labels", "none"] = "labels",
  draws: Annotated[int, Range(50)] = 2000,
  directions: Count = 256,
  judge: Literal["together", "by_condition"] = "together",
  scaling: Literal["data", "pixels"] = "data",
) -> Task:
  """A sampler of the law of some data, whose samples are compared with real data that it has not seen.

  Data are shifted and scaled as a whole to mean 0 and standard deviation 0.5, or as `scaling` says. `x` of the training
  examples are these data and `y` their conditions; `x` of the held-out ones are `jdistill.base.Draws`, noise and
  conditions for a sampler,
  with as many real examples under `extra["real"]`. A prediction is a sample.

  Of points the score is `sliced_wasserstein` (of order 1, in units of the scaled data), with `modes`, the number of
  modes that have a fifth of their share of samples within three standard deviations, and `good`, the share of samples
  that are so near to some mode; with labels also `by_condition`, the mean over conditions of the sliced distance of a
  condition's own samples from its own real examples, to which a sample of another condition is wrong. Of images it is
  `frechet`, the Frechet distance between features of samples and real images, the hidden units of a classifier that is
  trained on the same training images, 10,000 at most (scikit-learn's `MLPClassifier`; its numbers are no FID and stand
  beside others of the same task alone), with `precision`, `recall`, `density` and `coverage` of these features,
  `agreement`, the share of samples that the classifier finds to be of their condition, and `class_divergence` of its
  classes from those of the data, in nats. What real training data get in the place of samples is the task's `floor`.

  Args:
    request: `dataset` is a mixture, `"grid25"`, `"ring8"` or `"ring16"`, or images. Of a mixture `train_size` points
      are drawn (4,000 where it is open); `preprocessing` must be "none".
    conditions: `"labels"`, classes of images and modes of mixtures, or `"none"`.
    draws: samples that are compared with as many real examples; of images at most as many as there are.
    directions: of the sliced distance.
    judge: `"by_condition"` makes the figure of this name the score; of points with labels.
    scaling: `"pixels"` takes images to [-1, 1], whatever their mean and deviation: what released denoisers have seen.

  Raises:
    UserError: another preprocessing; fewer than 10 examples to compare with; a judgement by condition where there is
      none; pixels of points.
  """
  if request.preprocessing != "none":
    raise UserError(f"preprocessing={request.preprocessing!r}: samples are scaled as a whole; use 'none'")
  known = mixture(request.dataset) if request.dataset in mixtures() else None
  if judge == "by_condition" and (known is None or conditions == "none"):
    raise UserError("task.judge='by_condition': only points with conditions='labels' have it; use 'together'")
  if scaling == "pixels" and known is not None:
    raise UserError("task.scaling='pixels': is for images, and these are points; use 'data'")
  found = _images(request, scaling) if known is None else _points(request, known, draws)
  labels = found.conditions if conditions == "labels" else 1
  _check_sizes(request, found)
  train = numbered(found.train, found.train_y if labels > 1 else np.zeros_like(found.train_y))
  validation = _held(found.validation, found.validation_y, labels, draws, request.seed, 1)
  test = _held(found.test, found.test_y, labels, draws, request.seed, 2)
  figures = _of_points(known, found, directions) if known is not None else _of_images(found, request.seed)

  def score(predict: Predict, data: Batch) -> Mapping[str, float]:
    made = np.asarray(predict(data.x), np.float64)
    finite = np.isfinite(made).reshape(len(made), -1).all(1)
    if not finite.all():  # what a diverged sampler gives is far from everything
      made[~finite] = 1e6
    return figures(made, np.asarray(data.extra["real"], np.float64), np.asarray(data.x.cond), labels)

  held_out = "held-out" if known is not None or request.validation_size else "training"
  shape = found.train.shape[1:]
  return Task(
    data=train,
    members=lambda seed: np.arange(len(train.y)),
    teacher=train,
    validation=validation,
    test=test,
    num_classes=labels,
    input_shape=shape,
    kind="samples",
    score=score,
    metric=_metric(known, judge),
    higher=False,
    notes=(
      f"{len(train.y):,} training examples of {labels} condition{'s' if labels > 1 else ''}; choices by "
      f"{len(validation.y):,} samples beside as many {held_out} examples; test: {len(test.y):,}",
    ),
    class_names=found.names if labels > 1 else (),
    floor=figures(*_in_their_place(found, test, labels, request.seed), labels),
    exhibit=_exhibit(test, found, labels, of_points=known is not None),
  )


def _metric(known: Mixture | None, judge: str) -> str:
  if known is None:
    return "frechet"
  return "by_condition" if judge == "by_condition" else "sliced_wasserstein"


def _points(request: Request, known: Mixture, draws: int) -> _Data:
  rng = np.random.default_rng((request.seed, 41))
  sizes = (request.train_size or _POINTS, request.validation_size or draws, request.test_size or draws)
  parts = [known.draw(rng, size) for size in sizes]
  mean, scale = 0.0, SPREAD / float(np.std(known.centres) ** 2 + known.sd**2) ** 0.5
  x = [np.float32((points - mean) * scale).reshape(-1, 1, 1, 2) for points, _ in parts]
  y = [modes.astype(np.int32) for _, modes in parts]
  names = tuple(f"mode {number}" for number in range(len(known.centres)))
  return _Data(x[0], y[0], x[1], y[1], x[2], y[2], len(known.centres), mean, scale, names)


def _images(request: Request, scaling: str) -> _Data:
  found = images.read(request)
  parts = [found.train, found.validation if len(found.validation.y) else found.train, found.test]
  mean, deviation = float(np.mean(found.train.x)), float(np.std(found.train.x))
  if deviation == 0:
    raise UserError(f"dataset={request.dataset!r}: all pixels are the same; give images that differ")
  scale = SPREAD / deviation
  if scaling == "pixels":
    mean, scale = 0.5, 2.0
  both = [leaf for part in parts for leaf in (np.float32((part.x - mean) * scale), np.int32(part.y))]
  return _Data(*both, found.num_classes, mean, scale, tuple(found.about["class_names"]))


def _check_sizes(request: Request, found: _Data) -> None:
  for key, own, size in (
    ("validation_size", request.validation_size, len(found.validation_y)),
    ("test_size", request.test_size, len(found.test_y)),
  ):
    if size < _FEWEST:
      raise UserError(f"{key}={own}: {size} real examples are too few to compare samples with; give at least {_FEWEST}")


def _held(real: np.ndarray, y: np.ndarray, conditions: int, draws: int, seed: int, number: int) -> Batch:
  """Noise and conditions beside as many real examples, in the shares of these."""
  rng = np.random.default_rng((seed, 43, number))
  some = rng.permutation(len(real))[:draws]
  cond = y[some].astype(np.int32) if conditions > 1 else np.zeros(len(some), np.int32)
  eps = rng.normal(size=(len(some), *real.shape[1:])).astype(np.float32)
  return numbered(Draws(eps, cond, np.arange(len(some), dtype=np.int32)), cond, real=real[some])


def _in_their_place(found: _Data, test: Batch, conditions: int, seed: int) -> tuple[np.ndarray, ...]:
  """Training examples of the wanted conditions in the place of samples, and the real ones."""
  rng, cond = np.random.default_rng((seed, 47)), np.asarray(test.x.cond)
  places = np.zeros(len(cond), int)
  for number in np.unique(cond):
    own = np.flatnonzero(found.train_y == number) if conditions > 1 else np.arange(len(found.train_y))
    rows = np.flatnonzero(cond == number)
    places[rows] = rng.permutation(np.resize(rng.permutation(own), max(len(rows), len(own))))[: len(rows)]
  return np.float64(found.train[places]), np.float64(test.extra["real"]), cond


def _exhibit(test: Batch, found: _Data, conditions: int, *, of_points: bool) -> Exhibit | None:
  """Samples of the first test draws, as many as networks are asked about at once; the same for all arms."""
  draws = jax.tree.map(lambda leaf: leaf[:_SHOWN], test.x)
  if of_points:
    about = f"{len(draws.ids):,} samples of every arm's first student, from the same noise; grey are real points."
    real = test.extra["real"].reshape(-1, 2)[:_SHOWN]
    return Exhibit("points", about, lambda student: np.asarray(student.predict(draws)).reshape(-1, 2), real)
  if found.train.shape[-1] not in (1, 3):  # neither grey nor colour
    return None
  classes = min(conditions, _COLUMNS)
  columns = _COLUMNS if conditions == 1 else classes
  own = [np.flatnonzero(draws.cond == number)[:_ROWS] for number in range(classes)]
  rows = min(map(len, own)) if conditions > 1 else 0
  order = np.stack([one[:rows] for one in own], 1).ravel() if rows else np.arange(min(_ROWS * columns, len(draws.ids)))

  def pixels(x: np.ndarray) -> np.ndarray:
    return np.clip(np.nan_to_num(np.asarray(x)[order] / found.scale + found.mean), 0, 1)

  about = "Samples of every arm's first student, from the same noise, not selected" + (
    "; a column is a condition." if rows else "."
  )
  return Exhibit("images", about, lambda student: pixels(student.predict(draws)), pixels(test.extra["real"]), columns)


def _of_points(known: Mixture, found: _Data, directions: int):
  centres, sd = (known.centres - found.mean) * found.scale, known.sd * found.scale

  def judge(made: np.ndarray, real: np.ndarray, cond: np.ndarray, conditions: int) -> dict[str, float]:
    made, real = made.reshape(len(made), -1), real.reshape(len(real), -1)
    sliced = functools.partial(sliced_wasserstein, key=jax.random.key(0), p=1, directions=directions)
    distance = sliced(made, real)
    modes = mode_coverage(made, centres, sd)
    figures = {"sliced_wasserstein": distance, "modes": float(modes.covered), "good": modes.good}
    if conditions > 1:
      nearest = np.argmin(((made[:, None] - centres[None]) ** 2).sum(-1), axis=1)
      figures["agreement"] = float(np.mean(nearest == cond))
      parts = [cond == number for number in range(conditions)]
      own = [sliced(made[part], real[part]) for part in parts if part.any()]
      figures["by_condition"] = float(np.mean(own))
    return figures

  return judge


def _of_images(found: _Data, seed: int):
  network = MLPClassifier((_FEATURES,), random_state=seed, max_iter=_PASSES, tol=0.0, n_iter_no_change=_PASSES)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", ConvergenceWarning)  # it stops after so many passes on purpose
    some = np.random.default_rng((seed, 53)).permutation(len(found.train))[:_FITTED]
    some = some if len(found.train) > _FITTED else np.arange(len(found.train))
    network.fit(found.train[some].reshape(len(some), -1), found.train_y[some])
  prior = np.bincount(found.train_y, minlength=found.conditions) / len(found.train_y)

  def features(x: np.ndarray) -> np.ndarray:
    return np.maximum(x.reshape(len(x), -1) @ network.coefs_[0] + network.intercepts_[0], 0)

  def judge(made: np.ndarray, real: np.ndarray, cond: np.ndarray, conditions: int) -> dict[str, float]:
    own, other = features(made), features(real)
    classes = np.argmax(own @ network.coefs_[1] + network.intercepts_[1], axis=1)
    near, balls = precision_recall(own, other), density_coverage(own, other)
    figures = {"frechet": frechet_distance(own, other), **near._asdict(), **balls._asdict()}
    figures["class_divergence"] = class_divergence(classes, prior)
    if conditions > 1:
      figures["agreement"] = float(np.mean(classes == cond))
    return {name: float(value) for name, value in figures.items()}

  return judge
