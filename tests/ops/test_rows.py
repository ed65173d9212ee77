"""Batches in chunks: the same sums, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import models
from jdistill.ops import conv2d
from jdistill.ops.rows import (
  chunk_of,
  fold_rows,
  largest_convolution,
  largest_divisor,
  map_rows,
  row_count,
  suggest_chunk_size,
  sum_rows,
  value_and_grad,
)


@pytest.mark.parametrize("chunk_size", [None, 1, 2, 6])
def test_sum_over_chunks_is_the_sum(chunk_size):
  rng = np.random.default_rng(0)
  batch = {"x": jnp.asarray(rng.normal(size=(6, 3)), jnp.float32), "scale": jnp.float32(2)}
  got = fold_rows(lambda c, b: c + jnp.sum(b["scale"] * b["x"], 0), jnp.zeros(3), batch, chunk_size)
  np.testing.assert_allclose(got, 2 * np.asarray(batch["x"], np.float64).sum(0), rtol=1e-5)


def test_chunks_come_in_order_and_have_their_size():
  seen = []

  def body(carry, chunk):
    seen.append(chunk.shape)
    return carry * 10 + chunk[0]

  # 1, 3, 5 are the first rows of three chunks of two
  assert int(fold_rows(body, jnp.int32(0), jnp.arange(1, 7, dtype=jnp.int32), 2)) == 135
  assert set(seen) == {(2,)}


def test_keys_of_a_step_belong_to_every_chunk():
  batch = (jnp.zeros((4, 2)), jax.random.key(3))
  draw = fold_rows(lambda c, b: c + jax.random.normal(b[1], ()), jnp.zeros(()), batch, 2)
  np.testing.assert_allclose(draw, 2 * jax.random.normal(jax.random.key(3), ()), rtol=1e-6)


@pytest.mark.parametrize("chunk_size", [None, 2, 3, 6])
def test_rows_keep_their_order_and_sums_are_whole(chunk_size):
  x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)), jnp.float32)
  np.testing.assert_array_equal(map_rows(lambda own: {"a": 2 * own}, x, chunk_size)["a"], 2 * x)
  rows, total = sum_rows(lambda own: (own[:, 0], {"n": jnp.int32(len(own)), "x": jnp.sum(own)}), x, chunk_size)
  np.testing.assert_array_equal(rows, x[:, 0])
  assert int(total["n"]) == 6
  np.testing.assert_allclose(total["x"], np.sum(np.float64(x)), rtol=1e-5)


def test_the_largest_convolution_is_found_wherever_it_is():
  kernel = jnp.zeros((3, 3, 2, 5))
  inner = jax.jit(lambda x: jax.checkpoint(lambda x: conv2d(x, kernel))(x))
  assert largest_convolution(lambda x: inner(x) + conv2d(x, kernel[..., :1]), jnp.zeros((1, 8, 4, 2))) == 8 * 4 * 5 * 4
  assert largest_convolution(jnp.sin, jnp.zeros(3)) == 0
  assert chunk_of(32, 2**18) == 8 and chunk_of(32, 10) is None


def test_row_count():
  assert row_count((jnp.zeros((4, 2)), jnp.zeros(4), jnp.zeros(()))) == 4
  assert row_count(jnp.zeros(())) is None
  with pytest.raises(ValueError, match=r"lengths \[3, 4\]"):
    row_count((jnp.zeros(3), jnp.zeros(4)))


@pytest.mark.parametrize("size", [0, 4])
def test_chunk_size_must_divide(size):
  with pytest.raises(ValueError, match=f"chunk_size: {size} does not divide 6 rows"):
    fold_rows(lambda c, b: c, 0.0, jnp.zeros(6), size)


def test_largest_divisor():
  assert [largest_divisor(100, most) for most in (1, 3, 10, 30, 1000)] == [1, 2, 10, 25, 100]
  assert largest_divisor(7, 6) == 1


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_value_and_grad_in_chunks(chunk_size):
  rng = np.random.default_rng(1)
  x, theta = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((6, 3), (3,)))
  value, gradient = value_and_grad(lambda p, rows: jnp.sum(jnp.tanh(rows @ p)), theta, x, chunk_size)
  z = np.tanh(np.asarray(x, np.float64) @ np.asarray(theta, np.float64))
  np.testing.assert_allclose(value, z.sum(), rtol=1e-5)
  np.testing.assert_allclose(gradient, (1 - z**2) @ np.asarray(x, np.float64), rtol=1e-5)


def suggestion(model, rows, side=32, **options):
  network = models.build(model, num_classes=10, image_shape=(side, side, 3), **options)
  params, stats = jax.eval_shape(network.init, jax.random.key(0))
  return suggest_chunk_size(network.apply, params, (side, side, 3), rows, stats=stats, platform="cpu")


def test_suggested_chunks_shrink_with_the_maps():
  assert suggestion("convnet", 100, width=32) == 20
  assert suggestion("convnet", 100, width=128) == 5
  assert suggestion("convnet", 100, width=32, side=8, depth=2) is None  # all maps fit
  assert suggestion("convnet", 4, width=128) is None
  assert suggestion("convnet", 100, width=128, norm="batch") is None  # rows belong together


def test_no_chunks_on_accelerators():
  network = models.build("convnet", num_classes=10, image_shape=(32, 32, 3))
  params = jax.eval_shape(network.init, jax.random.key(0)).params
  assert suggest_chunk_size(network.apply, params, (32, 32, 3), 100, platform="tpu") is None
