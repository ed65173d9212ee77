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
