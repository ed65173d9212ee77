"""Distances within classes against loops over pairs."""

import numpy as np
import pytest

from jdistill.evaluation.diversity import within_class_distance

RNG = np.random.default_rng(0)


def test_it_is_the_mean_over_pairs_of_a_class_and_over_classes():
  features, labels = RNG.normal(size=(9, 5)), np.array([0, 0, 0, 2, 2, 2, 2, 5, 5])
  found = []
  for label in (0, 2, 5):
    own = features[labels == label]
    pairs = [(a, b) for i, a in enumerate(own) for b in own[i + 1 :]]
    found.append(np.mean([1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs]))
  assert within_class_distance(features, labels) == pytest.approx(np.mean(found), rel=1e-12)
  assert within_class_distance(np.float32(features) * RNG.uniform(1, 9, (9, 1)), labels) == pytest.approx(
    np.mean(found)
  )


def test_ends():
  one = np.tile(RNG.normal(size=3), (4, 1))
  assert within_class_distance(one, np.zeros(4)) == pytest.approx(0, abs=1e-12)
  assert within_class_distance(np.eye(3), np.zeros(3)) == pytest.approx(1)
  assert within_class_distance(np.float64([[1, 0], [-1, 0]]), np.zeros(2)) == pytest.approx(2)
  assert within_class_distance(np.float64([[1, 0], [0, 0]]), np.zeros(2)) == pytest.approx(1)  # no direction
  assert within_class_distance(np.eye(3), np.arange(3)) is None
