"""The order in which teachers label the set."""

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.stages import labels


def test_every_image_once_and_others_in_the_place_of_padding():
  policy = labels.order(10, 4)
  block, _ = policy.next(jax.random.key(0), policy.init(jax.random.key(1)), jnp.int32(0), None)
  index, weight = np.asarray(block.index), np.asarray(block.weight)
  assert policy.steps == 3 and index.shape == (3, 4)
  assert sorted(index[weight > 0]) == list(range(10))
  np.testing.assert_array_equal(weight[2], [1, 1, 0, 0])
  assert len(set(index[2])) == 4  # no image twice, so that the statistics of the batch are of different ones
  assert labels.order(3, 100).steps == 1


def test_a_control_has_as_many_updates_as_a_set_of_more_images():
  c = {"epochs": 80, "batch_size": 25}
  assert labels.epochs_of(c, 50, as_many_as=120) == 200  # 5 batches an epoch where the control has 2
  assert labels.epochs_of(c, 50, as_many_as=50) == 80 == labels.epochs_of(c, 10, as_many_as=10)
  assert labels.epochs_of(c, 10, as_many_as=24) == 80  # one batch either way
  assert labels.epochs_of({"epochs": 1, "batch_size": 10}, 100, as_many_as=10) == 1
