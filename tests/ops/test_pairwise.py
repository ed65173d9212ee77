"""Pairwise distances against loops in NumPy, and their gradients where distances vanish."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jdistill.ops import pairwise

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(4, 3)), RNG.normal(size=(5, 3))


def loop(function, x, y):
  return np.array([[function(a, b) for b in y] for a in x])


@pytest.mark.parametrize(
  "ours, reference",
  [
    (pairwise.pairwise_sq_dists, lambda a, b: ((a - b) ** 2).sum()),
    (lambda x, y: pairwise.pairwise_sq_dists(x, y, exact=False), lambda a, b: ((a - b) ** 2).sum()),
    (pairwise.pairwise_l1, lambda a, b: np.abs(a - b).sum()),
    (pairwise.pairwise_cosine, lambda a, b: a @ b / np.linalg.norm(a) / np.linalg.norm(b)),
  ],
)
def test_equals_numpy(x64, ours, reference):
  ours = jax.jit(ours)
  np.testing.assert_allclose(ours(jnp.asarray(X), jnp.asarray(Y)), loop(reference, X, Y), rtol=1e-11)
  check_grads(ours, (jnp.asarray(X), jnp.asarray(Y)), order=1, modes=["rev"])


@pytest.mark.parametrize("distances", [pairwise.pairwise_sq_dists, pairwise.pairwise_l1])
def test_rows_in_turns_change_nothing(x64, monkeypatch, distances):
  x, y = jnp.asarray(X), jnp.asarray(Y)

  def both(x, y):  # three of the four rows, then the last
    return jnp.sum(jnp.sin(distances(x, y))), distances(x, y)

  plain = jax.jit(jax.value_and_grad(both, argnums=(0, 1), has_aux=True))(x, y)
  monkeypatch.setattr(pairwise, "_DIFFERENCES_AT_ONCE", 3 * Y.size)
  jaxpr = str(jax.make_jaxpr(lambda x, y: both(x, y))(x, y))
  turns = jax.jit(jax.value_and_grad(lambda x, y: both(x, y), argnums=(0, 1), has_aux=True))(x, y)
  assert "scan" in jaxpr
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), plain, turns)


def test_literal_numbers():
  x, y = jnp.array([[3.0, 4.0], [0.0, 0.0]]), jnp.array([[0.0, 0.0], [0.0, 2.0]])
  np.testing.assert_allclose(pairwise.pairwise_sq_dists(x, y), [[25, 13], [0, 4]])
  np.testing.assert_allclose(pairwise.pairwise_l1(x, y), [[7, 5], [0, 2]])
  np.testing.assert_allclose(pairwise.pairwise_cosine(x, y), [[0, 0.8], [0, 0]], rtol=1e-6)


def test_exact_distances_survive_a_large_offset():
  x = jnp.array([[1000.0, 1000.0], [1000.0, 1000.25]])
  np.testing.assert_array_equal(pairwise.pairwise_sq_dists(x, x), [[0, 0.0625], [0.0625, 0]])
  assert bool(jnp.all(pairwise.pairwise_sq_dists(x, x, exact=False) >= 0))


@pytest.mark.parametrize("exact", [True, False])
def test_roots_of_zero_have_the_gradient_zero(exact):
  x = jnp.array([[1.0, 2.0], [1.0, 2.0], [0.0, 0.0]])

  def total(x):
    distances = pairwise.safe_sqrt(pairwise.pairwise_sq_dists(x, x, exact=exact))
    return jnp.sum(distances) + jnp.sum(pairwise.pairwise_cosine(x, x)) + jnp.sum(pairwise.safe_norm(x))

  value, gradient = jax.jit(jax.value_and_grad(total))(x)
  assert np.isfinite(value) and np.isfinite(gradient).all()
  np.testing.assert_allclose(gradient[0], gradient[1], rtol=1e-5)


def test_bfloat16_gives_float32():
  x = jnp.asarray(X, jnp.bfloat16) * 100
  for function in (pairwise.pairwise_sq_dists, pairwise.pairwise_l1, pairwise.pairwise_cosine):
    got = function(x, jnp.asarray(Y, jnp.float32))
    assert got.dtype == jnp.float32 and bool(jnp.isfinite(got).all())


def test_knn_mask_on_a_line():
  points = jnp.array([[0.0], [1.0], [3.0], [7.0]])
  mask = pairwise.knn_mask(pairwise.pairwise_sq_dists(points, points), 1)
  np.testing.assert_array_equal(mask.astype(int), [[0, 1, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]])
  kept = pairwise.knn_mask(pairwise.pairwise_sq_dists(points, points), 2, where=jnp.array([True, False, True, True]))
  np.testing.assert_array_equal(kept.astype(int), [[0, 0, 1, 1], [0, 0, 0, 0], [1, 0, 0, 1], [1, 0, 1, 0]])


def test_knn_mask_breaks_ties_to_the_lower_index_and_excludes_itself():
  mask = pairwise.knn_mask(jnp.zeros((4, 4)), 2)
  np.testing.assert_array_equal(mask.sum(1), 2)
  assert not mask.diagonal().any()
  np.testing.assert_array_equal(mask[3].astype(int), [1, 1, 0, 0])
  few = pairwise.knn_mask(jnp.zeros((4, 4)), 3, where=jnp.array([1, 1, 0, 0]))
  np.testing.assert_array_equal(few.astype(int), [[0, 1, 0, 0], [1, 0, 0, 0], [0] * 4, [0] * 4])


@pytest.mark.parametrize(
  "call, match",
  [
    (lambda: pairwise.pairwise_sq_dists(jnp.zeros((2, 3)), jnp.zeros((2, 4))), "must have one width"),
    (lambda: pairwise.pairwise_l1(jnp.zeros(3), jnp.zeros((2, 3))), "pairwise_l1.*x"),
    (lambda: pairwise.pairwise_cosine(jnp.zeros((2, 3)), jnp.zeros(3)), "pairwise_cosine.*y"),
    (lambda: pairwise.knn_mask(jnp.zeros((3, 3)), 3), "below the 3 rows"),
    (lambda: pairwise.knn_mask(jnp.zeros((3, 3)), 0), "at least 1"),
    (lambda: pairwise.knn_mask(jnp.zeros((3, 2)), 1), "square"),
    (lambda: pairwise.knn_mask(jnp.zeros((3, 3)), 1, where=jnp.ones(2)), "where must have shape"),
  ],
)
def test_wrong_arguments(call, match):
  with pytest.raises(ValueError, match=match):
    call()
