"""Balanced subsets at their limits."""

import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.data.subset import balanced_indices, largest_balanced, stratified_split


@pytest.mark.parametrize(
  ("sizes", "limit"), [([3, 3, 3], 9), ([4, 4, 3], 11), ([4, 3, 4], 10), ([3, 9, 9], 9), ([0, 5], 0), ([9, 0], 1)]
)
def test_the_limit_is_reachable_and_tight(sizes, limit):
  labels = np.repeat(np.arange(len(sizes)), sizes)
  assert largest_balanced(np.array(sizes)) == limit
  if limit >= len(sizes):
    counts = np.bincount(labels[balanced_indices(labels, limit, len(sizes), seed=0, key="train_size")])
    share, extra = divmod(limit, len(sizes))
    np.testing.assert_array_equal(counts, [share + (c < extra) for c in range(len(sizes))])
  with pytest.raises(UserError, match=rf"train_size={max(limit + 1, len(sizes))}: .* at most {limit} "):
    balanced_indices(labels, max(limit + 1, len(sizes)), len(sizes), seed=0, key="train_size")


def test_every_image_of_a_class_can_be_drawn():
  labels = np.array([0, 1] * 4)
  drawn = {int(i) for seed in range(40) for i in balanced_indices(labels, 2, 2, seed=seed, key="train_size")}
  assert drawn == set(range(8))


def test_the_stratified_split_parts_everything_once():
  labels = np.array([0] * 10 + [1] * 20 + [2] * 3)
  train, test = stratified_split(labels, 11)
  assert sorted([*train, *test]) == list(range(33)) and len(test) == 11
  # a third of each class is 3.33, 6.67 and 1: the one left over goes to the largest remainder
  np.testing.assert_array_equal(np.bincount(labels[test]), [3, 7, 1])
