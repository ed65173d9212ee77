"""Data policies: what an epoch sees, in how many steps, and that it can be drawn again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import schema
from jdistill.base import Block, UserError
from jdistill.data.policies import Chosen, cut, ordered, part_size, rs2, selected, shuffle, span, static_subset, walk

KEY = jax.random.key(0)


def draw(policy, epochs, key=KEY, state=None, first=0):
  """What each epoch sees, as lists of positions, and the blocks; the loop's keys are folded by epoch."""
  state = policy.init(key) if state is None else state
  step, blocks = jax.jit(lambda key, state, epoch: policy.next(key, state, epoch, None)), []
  for epoch in range(first, first + epochs):
    block, state = step(jax.random.fold_in(key, epoch), state, jnp.int32(epoch))
    assert block.index.shape == block.weight.shape and block.index.shape[0] == policy.steps
    assert block.index.dtype == jnp.int32 and block.weight.dtype == jnp.float32
    blocks.append(block)
  return [np.asarray(b.index)[np.asarray(b.weight) > 0].tolist() for b in blocks], blocks


@pytest.mark.parametrize(("size", "batch_size", "steps", "count"), [(10, 3, 3, 9), (9, 3, 3, 9), (3, 50, 1, 3)])
def test_shuffled_epochs_leave_out_the_incomplete_batch(size, batch_size, steps, count):
  policy = shuffle(size, batch_size)
  seen, blocks = draw(policy, 3)
  assert policy.steps == steps and not policy.looks
  assert blocks[0].index.shape == (steps, min(batch_size, size))
  assert all(len(epoch) == len(set(epoch)) == count and max(epoch) < size for epoch in seen)
  assert len({tuple(epoch) for epoch in seen}) > 1


def test_shuffled_epochs_may_keep_the_rest_as_a_padded_batch():
  policy = shuffle(10, 4, drop_last=False)
  seen, blocks = draw(policy, 2)
  assert policy.steps == 3 and [sorted(epoch) for epoch in seen] == [list(range(10))] * 2
  np.testing.assert_array_equal(blocks[0].weight[-1], [1, 1, 0, 0])


def test_a_static_subset_is_one_for_the_whole_training():
  seen, blocks = draw(static_subset(50, 4, fraction=0.2), 4)
  assert [len(epoch) for epoch in seen] == [10] * 4 and blocks[0].index.shape == (3, 4)
  assert len({frozenset(epoch) for epoch in seen}) == 1 and len({tuple(epoch) for epoch in seen}) > 1
  other = draw(static_subset(50, 4, fraction=0.2), 1, jax.random.key(1))[0][0]
  assert set(other) != set(seen[0])
  shared = [draw(static_subset(50, 4, count=7, seed=3), 1, jax.random.key(k))[0][0] for k in (0, 1)]
  assert set(shared[0]) == set(shared[1]) and len(shared[0]) == 7


@pytest.mark.parametrize(("size", "fraction"), [(12, 0.25), (12, 1 / 3), (10, 0.1), (7, 1.0)])
def test_rs2_sees_every_example_equally_often_when_the_part_divides_the_data(size, fraction):
  kept = part_size(fraction, size)
  rounds = size // kept
  for epochs in (rounds, 2 * rounds, 2 * rounds + 1):
    seen, _ = draw(rs2(size, 2, fraction=fraction), epochs)
    counts = np.bincount(np.concatenate(seen), minlength=size)
    assert counts.min() == epochs * kept // size and counts.max() == -(-epochs * kept // size)


def test_rs2_shuffles_anew_where_fewer_than_a_part_remain():
  seen, _ = draw(rs2(10, 4, fraction=0.3), 12)
  for first in (0, 3, 6, 9):  # three blocks of three, and one example that is left out
    assert len(set(np.concatenate(seen[first : first + 3]))) == 9
  missing = {min(set(range(10)) - set(np.concatenate(seen[f : f + 3]).tolist())) for f in (0, 3, 6, 9)}
  assert len(missing) > 1


def test_rs2_has_the_steps_of_its_part():
  policy = rs2(100, 8, fraction=0.21)
  seen, blocks = draw(policy, 2)
  assert policy.steps == 3 and blocks[0].index.shape == (3, 8) and len(seen[0]) == 21
  assert float(np.sum(blocks[0].weight)) == 21 and len(set(seen[0])) == 21
  small = rs2(100, 64, fraction=0.01)  # one example: a batch of one
  assert small.steps == 1 and draw(small, 1)[1][0].index.shape == (1, 1)


def test_rs2_with_replacement_draws_epochs_independently():
  seen, _ = draw(rs2(10, 5, fraction=0.5, replacement=True), 40)
  assert all(len(set(epoch)) == 5 for epoch in seen)
  counts = np.bincount(np.concatenate(seen), minlength=10)
  assert counts.max() - counts.min() > 1 and counts.min() > 8 and counts.max() < 32  # mean 20, deviation 3.2


@pytest.mark.parametrize("replacement", [False, True])
def test_rs2_is_repeatable_and_does_not_care_where_it_is_taken_up(replacement):
  policy = rs2(20, 3, fraction=0.25, replacement=replacement)
  whole, _ = draw(policy, 9)
  assert draw(policy, 9)[0] == whole
  assert draw(policy, 3, state=policy.init(KEY), first=6)[0] == whole[6:]
  assert draw(policy, 9, jax.random.key(1))[0] != whole


def test_fractions():
  assert [part_size(f, 10) for f in (0.3, 1.0, 0.01, 0.25)] == [3, 10, 1, 2]
  field = schema.fields(rs2)["fraction"]
  assert (field.above, field.high, field.default) == (0, 1, 0.1)
  for fraction, message in ((0.0, "must be above 0"), (1.5, "must be at most 1")):
    with pytest.raises(UserError, match=rf"data_policy.fraction={fraction}: {message}"):
      rs2(10, 2, fraction=fraction)
  with pytest.raises(UserError, match=r"data_policy\.count=11: there are 10 examples"):
    static_subset(10, 2, count=11)


def test_a_walk_fills_with_kept_examples_and_steps_that_do_not_happen_are_cut():
  keep = jnp.isin(jnp.arange(10), jnp.int32([1, 4, 9, 6]))
  once, again = walk(KEY, keep, 3), walk(KEY, keep, 3, repeat=True)
  assert once.index.shape == (4, 3) and set(np.asarray(once.index).ravel()) == {1, 4, 6, 9}
  index, weight = cut(once)
  assert index.shape == (2, 3) and sorted(index[weight > 0]) == [1, 4, 6, 9]
  assert isinstance(index, np.ndarray) and weight.tolist() == [[1, 1, 1], [1, 0, 0]]
  assert np.asarray(again.weight).all() and (np.bincount(np.asarray(again.index).ravel())[[1, 4, 6, 9]] == 3).all()
  assert float(once.metrics["selected"]) == pytest.approx(0.4)
  nothing = walk(KEY, jnp.zeros(10, bool), 3, repeat=True)
  assert cut(nothing)[0].shape == (0, 3)


def test_steps_in_the_middle_are_cut_too():
  index, weight = cut(Block(jnp.int32([[0, 1], [2, 3], [4, 5]]), jnp.float32([[1, 1], [0, 0], [0, 2]])))
  assert index.tolist() == [[0, 1], [4, 5]] and weight.tolist() == [[1, 1], [0, 2]]


CHOSEN = Chosen(np.array([[3, 7, 1, 9, 4], [8, 2, 2, 2, 2]]), np.array([[2.0, 1, 0.5, 3, 1], [4.0, 1, 0, 0, 0]]))


def weights_of(block):
  return {int(i): float(w) for i, w in zip(np.ravel(block.index), np.ravel(block.weight), strict=True) if w > 0}


def test_every_epoch_goes_through_what_was_selected_once_with_its_weights():
  seen, blocks = draw(selected(10, 2, CHOSEN), 4)
  assert [sorted(epoch) for epoch in seen] == [[1, 3, 4, 7, 9]] * 4 and len({tuple(epoch) for epoch in seen}) > 1
  assert blocks[0].index.shape == (3, 2)
  assert all(weights_of(block) == {3: 2.0, 7: 1.0, 1: 0.5, 9: 3.0, 4: 1.0} for block in blocks)
  _, blocks = draw(selected(10, 2, CHOSEN, weighted=False), 1)
  assert weights_of(blocks[0]) == dict.fromkeys((3, 7, 1, 9, 4), 1.0)


def test_students_side_by_side_have_subsets_of_their_own_and_what_fills_up_has_no_weight():
  policy = selected(10, 5, CHOSEN)
  states = policy.init_seeds(jax.random.split(KEY, 2))
  block, _ = jax.vmap(lambda state: policy.next(KEY, state, jnp.int32(0), None))(states)
  own = [weights_of(jax.tree.map(lambda leaf, s=s: leaf[s], block)) for s in range(2)]
  assert set(own[0]) == {3, 7, 1, 9, 4} and own[1] == {8: 4.0, 2: 1.0}


def test_without_a_choice_all_examples_are_selected():
  seen, blocks = draw(selected(7, 3), 1)
  assert sorted(seen[0]) == list(range(7)) and selected(7, 3).steps == 3 and (blocks[0].weight <= 1).all()


def test_a_span_is_those_examples_and_no_others():
  policy = span(20, 4, skip=7, count=6)
  for epoch in range(3):
    block, _ = policy.next(jax.random.key(epoch), policy.init(jax.random.key(0)), jnp.int32(epoch), None)
    index, weight = np.asarray(block.index), np.asarray(block.weight)
    assert policy.steps == 2 and sorted(index[weight > 0]) == list(range(7, 13))
  rest = span(20, 4, skip=16)
  block, _ = rest.next(jax.random.key(0), rest.init(jax.random.key(0)), jnp.int32(0), None)
  assert sorted(np.asarray(block.index).ravel()) == [16, 17, 18, 19]
  for options in ({"skip": 20}, {"skip": 15, "count": 6}):
    with pytest.raises(UserError, match=r"data_policy\.skip=\d+: with count=\w+ of 20 examples is beyond the last"):
      span(20, 4, **options)


def test_ordered_batches_are_those_of_the_order_in_every_epoch():
  seen, blocks = draw(ordered(11, 3, order=(2, 0, 1)), 2)
  assert seen == [[6, 7, 8, 0, 1, 2, 3, 4, 5]] * 2 and np.asarray(blocks[0].weight).all()
  assert draw(ordered(11, 3), 1)[0][0] == list(range(9)) == draw(ordered(11, 3), 1, jax.random.key(5))[0][0]


@pytest.mark.parametrize("order", [(0, 1), (0, 1, 1), (0, 1, 2, 3)])
def test_an_order_that_is_no_permutation_of_the_batches_is_refused(order):
  with pytest.raises(
    UserError, match=r"data_policy\.order: has \d batches.*; 11 examples make 3 batches of 3"
  ) as caught:
    ordered(11, 3, order=order)
  assert ("batch 2 is missing" in str(caught.value)) == (2 not in order)
