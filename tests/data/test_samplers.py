"""Epochs cover what they should, with static shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.data import samplers

KEY = jax.random.key(0)
X = np.arange(20, dtype=np.float32).reshape(10, 1, 2, 1)
Y = np.arange(10, dtype=np.int32)


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


def test_static_gives_the_same_examples_every_epoch():
  source = samplers.static(X, Y, ids=Y + 100)
  first, later = source(KEY, jnp.int32(0)), source(jax.random.key(9), jnp.int32(7))
  for examples in (first, later):
    np.testing.assert_array_equal(examples.x, X)
    np.testing.assert_array_equal(examples.y, Y)
    np.testing.assert_array_equal(examples.ids, Y + 100)
    assert examples.weight is None
  np.testing.assert_array_equal(samplers.static(X, Y)(KEY, jnp.int32(0)).ids, np.arange(10))


def test_fresh_subsets_are_new_every_epoch_and_repeatable():
  source = jax.jit(samplers.fresh_subset(X, Y, 4, ids=Y + 100))
  epochs = [source(KEY, jnp.int32(epoch)) for epoch in range(60)]
  for examples in epochs:
    assert examples.x.shape == (4, 1, 2, 1) and len(set(examples.ids.tolist())) == 4
    np.testing.assert_array_equal(examples.y + 100, examples.ids)
    np.testing.assert_array_equal(examples.x[:, 0, 0, 0], 2.0 * examples.y.astype(jnp.float32))
  np.testing.assert_array_equal(epochs[3].ids, source(KEY, jnp.int32(3)).ids)
  assert len({tuple(sorted(examples.ids.tolist())) for examples in epochs}) > 30
  seen = np.bincount(np.concatenate([examples.y for examples in epochs]), minlength=10)
  # 60 draws with probability 0.4: mean 24, deviation 3.8
  assert seen.min() > 8 and seen.max() < 40


@pytest.mark.parametrize(("value", "size"), [(0.3, 3), (1.0, 10), (1, 1), (10, 10), (0.01, 1)])
def test_fractions_and_sizes(value, size):
  assert samplers.fresh_subset(X, Y, value)(KEY, jnp.int32(0)).x.shape[0] == size


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: samplers.epoch_batches(KEY, 0, 3), r"n=0: an epoch needs at least one example"),
    (lambda: samplers.epoch_batches(KEY, 5, 0), r"batch_size=0: must be at least 1"),
    (lambda: samplers.epoch_batches(KEY, 5, 6, drop_last=True), r"batch_size=6: larger than the 5 examples"),
    (lambda: samplers.fresh_subset(X, Y, 0.0), r"fraction_or_size=0\.0: a fraction must lie in \(0, 1\]"),
    (lambda: samplers.fresh_subset(X, Y, 1.5), r"fraction_or_size=1\.5: a fraction"),
    (lambda: samplers.fresh_subset(X, Y, 11), r"fraction_or_size=11: must lie in 1\.\.10"),
    (lambda: samplers.fresh_subset(X, Y, 0), r"fraction_or_size=0: must lie in 1\.\.10"),
    (lambda: samplers.fresh_subset(X, Y, True), r"fraction_or_size=True: must be"),
    (lambda: samplers.static(X, Y[:9]), r"x, y, ids: lengths 10, 9, 10 differ"),
  ],
)
def test_bad_input(call, message):
  with pytest.raises(UserError, match=message):
    call()
