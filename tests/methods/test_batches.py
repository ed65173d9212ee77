"""The batches of an inner loop: every image once a round, the short batch first; and those of random real images."""

import jax
import numpy as np
import pytest

from jdistill.methods.dataset.batches import inner_batches, random_batches
from jdistill.synthetic import Materials

KEY = jax.random.key(0)


def rows(size, batch_size, steps, key=KEY):
  indices, mask = (np.asarray(a) for a in inner_batches(key, size, batch_size, steps))
  assert indices.dtype == np.int32 and mask.dtype == bool
  return indices, mask


@pytest.mark.parametrize(
  ("size", "batch_size", "steps", "first"),
  [(6, 3, 4, 3), (7, 3, 6, 1), (8, 3, 6, 2), (5, 5, 3, 5), (4, 9, 3, 4), (1, 1, 2, 1), (3, 1, 6, 1)],
)
def test_whole_rounds_use_every_image_once(size, batch_size, steps, first):
  indices, mask = rows(size, batch_size, steps)
  width = min(batch_size, size)  # a batch larger than the set is the set
  per_round = -(-size // width)
  assert indices.shape == mask.shape == (steps, width)
  assert indices.min() >= 0 and indices.max() < size
  for begin in range(0, steps, per_round):
    used, valid = indices[begin : begin + per_round], mask[begin : begin + per_round]
    assert sorted(used[valid].tolist()) == list(range(size))
    assert valid.sum(1).tolist() == [first] + [width] * (per_round - 1)


def test_steps_need_not_fill_the_last_round():
  indices, mask = rows(7, 3, 5)
  longer, longer_mask = rows(7, 3, 6)
  np.testing.assert_array_equal(indices, longer[:5])
  np.testing.assert_array_equal(mask, longer_mask[:5])
  assert mask.sum(1).tolist() == [1, 3, 3, 1, 3]
  assert rows(7, 3, 1)[1].sum() == 1


def test_rounds_and_keys_have_orders_of_their_own():
  indices, _ = rows(50, 50, 3)
  assert (indices[0] != indices[1]).any() and (indices[1] != indices[2]).any()
  assert (indices[0] != np.arange(50)).any()
  np.testing.assert_array_equal(indices, rows(50, 50, 3)[0])
  assert (indices != rows(50, 50, 3, jax.random.key(1))[0]).any()


def test_random_batches_have_no_repetition_and_all_images_equally_often():
  x, y = np.arange(20, dtype=np.float32).reshape(20, 1, 1, 1), np.arange(20) % 3
  feed, found = random_batches(batch_real=5), Materials(x, y, 3, seed=4)
  batch = feed.stream(found)
  counts = np.zeros(20)
  for step in range(800):
    one = batch(step)
    assert len(set(one.ids)) == 5 and one.weight is None
    counts[one.ids] += 1
  np.testing.assert_array_equal(one.x[:, 0, 0, 0], one.ids)
  np.testing.assert_array_equal(one.y, one.ids % 3)
  assert (np.abs(counts - 200) < 5 * np.sqrt(800 * 0.25 * 0.75)).all()
  np.testing.assert_array_equal(feed.stream(found)(7).ids, batch(7).ids)
  assert (feed.stream(found._replace(seed=5))(7).ids != batch(7).ids).any()
  shape = feed.example(found)
  assert (shape.x.shape, shape.y.shape, shape.y.dtype) == ((5, 1, 1, 1), (5,), np.int32)
  assert random_batches(batch_real=100).stream(found)(0).x.shape == (20, 1, 1, 1)
