"""Choices of real images against their definitions, tried out in full."""

import itertools

import numpy as np
import pytest

from jdistill.selection import CHOICES, Evidence, herding, k_center, k_means, select

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


@pytest.mark.parametrize("name", CHOICES)
def test_equal_points_are_chosen_once_each(name):
  found = select(0, name, Evidence(np.zeros(4, int), np.zeros((4, 2))), per_class=4)
  assert sorted(found.index) == [0, 1, 2, 3]


@pytest.mark.parametrize("choose", [herding, k_center])
def test_every_class_has_its_own_choice(choose):
  images, labels = RNG(0).normal(size=(30, 2, 2, 1)), np.arange(30) % 3
  picked = select(1, choose.__name__, Evidence(labels, images), per_class=4).index
  for label in range(3):
    own = np.flatnonzero(labels == label)
    part = picked[4 * label : 4 * label + 4]
    np.testing.assert_array_equal(part, own[choose(RNG(0), images[own].reshape(10, -1), 4)])
