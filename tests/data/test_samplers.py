"""Epochs cover what they should, with static shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.data import samplers

KEY = jax.random.key(0)


@pytest.mark.parametrize(("n", "batch_size", "steps"), [(10, 3, 4), (9, 3, 3), (2, 5, 1), (1, 1, 1)])
def test_masked_batches_hold_every_index_once(n, batch_size, steps):
  indices, mask = samplers.epoch_batches(KEY, n, batch_size)
  assert indices.shape == mask.shape == (steps, batch_size)
  assert indices.dtype == jnp.int32 and mask.dtype == bool
  assert sorted(np.asarray(indices)[np.asarray(mask)].tolist()) == list(range(n))
  assert mask[:-1].all() and int(indices.min()) >= 0 and int(indices.max()) < n  # padding is a valid index


def test_drop_last_leaves_out_the_short_batch():
  indices, mask = samplers.epoch_batches(KEY, 10, 3, drop_last=True)
  assert indices.shape == (3, 3) and mask.all()
  assert len(set(np.asarray(indices).reshape(-1).tolist())) == 9


def test_the_key_decides_the_order():
  a, _ = samplers.epoch_batches(KEY, 50, 50)
  b, _ = jax.jit(lambda key: samplers.epoch_batches(key, 50, 50))(KEY)
  c, _ = samplers.epoch_batches(jax.random.key(1), 50, 50)
  np.testing.assert_array_equal(a, b)
  assert (np.asarray(a) != np.asarray(c)).any() and (np.asarray(a)[0] != np.arange(50)).any()


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: samplers.epoch_batches(KEY, 0, 3), r"n=0: an epoch needs at least one example"),
    (lambda: samplers.epoch_batches(KEY, 5, 0), r"batch_size=0: must be at least 1"),
    (lambda: samplers.epoch_batches(KEY, 5, 6, drop_last=True), r"batch_size=6: larger than the 5 examples"),
  ],
)
def test_bad_input(call, message):
  with pytest.raises(UserError, match=message):
    call()
