"""How samples of a concept and of known classes are judged."""

import warnings
from collections.abc import Callable, Mapping

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from jdistill.base import Batch
from jdistill.evaluation.samples import frechet_distance
from jdistill.tasks.concept_data import Data
from jdistill.tasks.task import Predict

OLD = -1  # the concept of rows of known classes
_FEATURES, _PASSES = 64, 60  # of the classifier


class Judge:
  """Figures of samples, by a classifier of known classes and concepts."""

  def __init__(self, data: Data, pick: Callable[[int], np.ndarray], token: int, seed: int):
    self.data, self.pick, self.token = data, pick, token
    x = np.concatenate([data.train.x, *data.train.concepts])
    sizes = [len(one) for one in data.train.concepts]
    y = np.concatenate([data.train.y, np.repeat(token + np.arange(len(sizes)), sizes)])
    network = MLPClassifier((_FEATURES,), random_state=seed, max_iter=_PASSES, tol=0.0, n_iter_no_change=_PASSES)
    with warnings.catch_warnings():
      warnings.simplefilter("ignore", ConvergenceWarning)  # it stops after so many passes on purpose
      network.fit(x.reshape(len(x), -1), y)
    self.network = network

  def features(self, x: np.ndarray) -> np.ndarray:
    rows = np.asarray(x, np.float64).reshape(len(x), -1)
    return np.maximum(rows @ self.network.coefs_[0] + self.network.intercepts_[0], 0)

  def score(self, predict: Predict, held: Batch) -> Mapping[str, float]:
    made = np.asarray(predict(held.x), np.float64)
    made[~np.isfinite(made).reshape(len(made), -1).all(1)] = 1e6  # a diverged sampler is far from everything
    return self.figures(made, held)

  def figures(self, made: np.ndarray, held: Batch) -> dict[str, float]:
    """Of samples for held-out rows: of old classes, and means over the concepts that are there."""
    number, real = held.extra["concept"], held.extra["real"]
    named = [one for one in np.unique(number) if one != OLD]
    student = int(held.extra["student"][0])
    own = [
      self._concept(made[number == one], real[number == one], int(one), int(one) if student < 0 else student)
      for one in named
    ]
    found = {name: float(np.mean([one[name] for one in own])) for name in own[0]}
    old, cond = number == OLD, np.asarray(held.x.cond)
    found["old_frechet"] = float(frechet_distance(self.features(made[old]), self.features(real[old])))
    found["old_agreement"] = float(np.mean(np.argmax(self._logits(made[old]), axis=1) == cond[old]))
    return found

  def _logits(self, x: np.ndarray) -> np.ndarray:
    return self.features(x) @ self.network.coefs_[1] + self.network.intercepts_[1]

  def _concept(self, made: np.ndarray, real: np.ndarray, number: int, student: int) -> dict[str, float]:
    logits = self._logits(made)
    logits = logits - logits.max(1, keepdims=True)
    chance = np.exp(logits[:, self.token + number]) / np.exp(logits).sum(1)
    shown = self.data.train.concepts[number][self.pick(student)]
    nearest, usual = _to_nearest(made, shown), _to_nearest(real, shown)
    own, other = self.features(made), self.features(real)
    return {
      "concept": float(np.mean(chance)),
      "similarity": float(np.mean(_unit(own) @ _unit(other).T)),
      "concept_frechet": float(frechet_distance(own, other)),
      "diversity": _spread(made) / _spread(np.unique(real, axis=0)),  # an image may be there several times
      "nearest": nearest,
      "copied": nearest / usual,
    }

  def floor(self, test: Batch) -> dict[str, float]:
    """What training images get in the place of samples; of concepts those that are no reference of its first seed."""
    made, rng = np.zeros_like(test.extra["real"]), np.random.default_rng(67)
    for number, own in enumerate(self.data.train.concepts):
      rows = test.extra["concept"] == number
      other = np.delete(own, self.pick(number), axis=0)
      made[rows] = np.resize(rng.permutation(other), (int(rows.sum()), *own.shape[1:]))
    for condition in range(self.token):
      rows = (test.extra["concept"] == OLD) & (test.x.cond == condition)
      own = self.data.train.x[self.data.train.y == condition]
      made[rows] = np.resize(rng.permutation(own), (int(rows.sum()), *own.shape[1:]))
    return self.figures(np.float64(made), test)


def _to_nearest(x: np.ndarray, references: np.ndarray) -> float:
  """The mean distance of rows to the nearest reference, per root of the number of pixels."""
  gaps = np.square(np.float64(x)[:, None] - np.float64(references)[None]).reshape(len(x), len(references), -1).mean(2)
  return float(np.mean(np.sqrt(gaps.min(1))))


def _spread(x: np.ndarray) -> float:
  """The mean distance between two rows."""
  rows = np.float64(x).reshape(len(x), -1)
  squares = np.sum(rows**2, axis=1)
  gaps = np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * rows @ rows.T, 0))
  return float(np.sum(gaps) / (len(rows) * (len(rows) - 1)))


def _unit(rows: np.ndarray) -> np.ndarray:
  return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
