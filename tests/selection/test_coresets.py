"""Choices of real images against their definitions, tried out in full."""

import itertools

import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.selection import CHOICES, herding, k_center, k_means, per_class

RNG = np.random.default_rng


@pytest.mark.parametrize("seed", range(3))
def test_herding_keeps_the_mean_of_what_it_chose_nearest_to_the_mean_of_all(seed):
  points = RNG(seed).normal(size=(12, 3))
  picked = herding(RNG(0), points, 5)
  for number in range(5):
    rest = [i for i in range(12) if i not in picked[:number]]
    far = {i: np.linalg.norm(points.mean(0) - points[[*picked[:number], i]].mean(0)) for i in rest}
    assert picked[number] == min(far, key=far.get)


@pytest.mark.parametrize("seed", range(3))
def test_k_center_takes_what_is_farthest_from_all_it_has(seed):
  points = RNG(seed).normal(size=(12, 3))
  picked = k_center(RNG(0), points, 6)
  assert picked[0] == np.linalg.norm(points - points.mean(0), axis=1).argmin()
  for number in range(1, 6):
    nearest = np.linalg.norm(points[:, None] - points[picked[:number]][None], axis=-1).min(1)
    assert picked[number] == nearest.argmax()
  # Gonzalez: no choice of six covers all points at less than half of this radius
  radius = np.linalg.norm(points[:, None] - points[picked][None], axis=-1).min(1).max()
  least = min(
    np.linalg.norm(points[:, None] - points[list(choice)][None], axis=-1).min(1).max()
    for choice in itertools.combinations(range(12), 6)
  )
  assert radius <= 2 * least


def test_k_means_takes_one_point_from_the_middle_of_every_cluster():
  middles = np.array([[0, 0], [9, 0], [0, 9]])
  points = middles[np.arange(60) % 3] + 0.5 * RNG(1).normal(size=(60, 2))
  picked = k_means(RNG(0), points, 3)
  assert sorted(picked % 3) == [0, 1, 2]
  for place in picked:
    own = np.flatnonzero(np.arange(60) % 3 == place % 3)
    assert place == own[np.linalg.norm(points[own] - points[own].mean(0), axis=1).argmin()]


@pytest.mark.parametrize("choose", CHOICES.values(), ids=CHOICES)
def test_equal_points_are_chosen_once_each(choose):
  assert sorted(choose(RNG(0), np.zeros((4, 2)), 4)) == [0, 1, 2, 3]


@pytest.mark.parametrize("choose", CHOICES.values(), ids=CHOICES)
def test_every_class_has_its_own_choice(choose):
  images, labels = RNG(0).normal(size=(30, 2, 2, 1)), np.arange(30) % 3
  picked = per_class(choose, RNG(1), images, labels, 4, 3)
  assert labels[picked].tolist() == [0] * 4 + [1] * 4 + [2] * 4 and len(set(picked)) == 12
  np.testing.assert_array_equal(picked, per_class(choose, RNG(1), images, labels, 4, 3))
  if choose in (herding, k_center):
    own = np.flatnonzero(labels == 1)
    np.testing.assert_array_equal(picked[4:8], own[choose(RNG(0), images[own].reshape(10, -1), 4)])
  with pytest.raises(UserError, match=r"ipc=11: class 0 has only 10 images; lower ipc"):
    per_class(choose, RNG(1), images, labels, 11, 3)
