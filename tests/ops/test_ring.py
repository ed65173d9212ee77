"""The ring buffer beside a deque: order, masks, one program for all pushes, and draws."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.ops.ring import draw_rows, empty_ring, push

ROWS = {"a": jnp.zeros((3, 2), jnp.int32), "b": jnp.zeros(3)}


def numbered(numbers):
  numbers = jnp.asarray(numbers)
  return {"a": jnp.stack([numbers, -numbers], axis=1).astype(jnp.int32), "b": numbers.astype(jnp.float32)}


def held(ring):
  """What it holds, from the oldest."""
  size, capacity = int(ring.size), ring.capacity
  places = (int(ring.next) - size + np.arange(size)) % capacity
  np.testing.assert_array_equal(ring.rows["a"][:, 0], -ring.rows["a"][:, 1])
  np.testing.assert_array_equal(ring.rows["a"][:, 0], ring.rows["b"].astype(jnp.int32))
  return list(map(int, ring.rows["b"][places]))


@pytest.mark.parametrize("capacity", [3, 5, 7])
def test_first_in_first_out_inside_a_scan(capacity):
  numbers = np.arange(1, 19).reshape(6, 3)
  where = np.random.default_rng(capacity).random((6, 3)) < 0.7

  @jax.jit
  def run(numbers, where):
    def one(ring, given):
      ring = push(ring, numbered(given[0]), given[1])
      return ring, ring

    return jax.lax.scan(one, empty_ring(ROWS, capacity), (numbers, where))[1]

  rings, want = run(jnp.asarray(numbers), jnp.asarray(where)), collections.deque(maxlen=capacity)
  for i in range(6):
    want.extend(map(int, numbers[i][where[i]]))
    assert held(jax.tree.map(lambda leaf, i=i: leaf[i], rings)) == list(want)


def test_without_a_mask_all_rows_enter():
  ring = push(push(empty_ring(ROWS, 4), numbered([1, 2, 3])), numbered([4, 5, 6]))
  assert held(ring) == [3, 4, 5, 6] and int(ring.size) == 4


def test_draws_are_without_replacement_while_there_are_enough():
  ring = push(empty_ring(ROWS, 8), numbered([1, 2, 3]))
  draw = jax.jit(lambda key, count: draw_rows(ring, key, count)["b"], static_argnums=1)
  seen = [tuple(sorted(map(int, draw(jax.random.key(seed), 2)))) for seed in range(60)]
  assert set(seen) == {(1, 2), (1, 3), (2, 3)}
  assert all(10 < seen.count(pair) < 32 for pair in set(seen))  # 20 expected, 3.7 the standard deviation
  for seed in range(5):
    many = [int(x) for x in draw(jax.random.key(seed), 7)]
    assert sorted(collections.Counter(many).values()) == [2, 2, 3]
    assert set(many) == {1, 2, 3}


def test_what_it_refuses():
  with pytest.raises(ValueError, match="capacity must be at least 1, got 0"):
    empty_ring(ROWS, 0)
  with pytest.raises(ValueError, match="3 rows at once into a ring of 2; raise its capacity"):
    push(empty_ring(ROWS, 2), numbered([1, 2, 3]))
