"""Class means and the norm-and-direction losses against loops in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jdistill.losses import direction

RNG = np.random.default_rng(2)
S, T = RNG.normal(size=(5, 4)), RNG.normal(size=(5, 4))
S[:2] *= 5  # longer than the teacher's
MEANS, LABELS = RNG.normal(size=(3, 4)), np.array([0, 2, 1, 1, 0])


def reference(s, t):
  e = MEANS[LABELS] / np.linalg.norm(MEANS[LABELS], axis=1, keepdims=True)
  return 1 - (s * e).sum(1) / np.maximum(np.linalg.norm(s, axis=1), np.linalg.norm(t, axis=1))


def test_norm_direction(x64):
  s, t, m, y = map(jnp.asarray, (S, T, MEANS, LABELS))
  np.testing.assert_allclose(direction.norm_direction_loss(s, t, m, y), reference(S, T), rtol=1e-12)
  check_grads(lambda s: direction.norm_direction_loss(s, t, m, y), (s,), order=1, modes=["rev"])
  _, dt, dm = jax.grad(lambda *a: direction.norm_direction_loss(*a, y).sum(), argnums=(0, 1, 2))(s, t, m)
  assert not dt.any() and not dm.any()


def test_literal_numbers():
  # mean along (1, 0): the short student (0.6, 0.8) beside a teacher of length 2, the long one beside length 0.5
  s, m, y = jnp.array([[0.6, 0.8], [3.0, 4.0]]), jnp.array([[7.0, 0.0]]), jnp.zeros(2, int)
  t = jnp.array([[0.0, 2.0], [0.5, 0.0]])
  np.testing.assert_allclose(direction.norm_direction_loss(s, t, m, y), [1 - 0.3, 0.4], rtol=1e-6)
  np.testing.assert_allclose(direction.direction_only_loss(s, m, y), [0.4, 0.4], rtol=1e-6)
  np.testing.assert_allclose(direction.norm_only_loss(s, t), [0.5, 0.0], rtol=1e-6)


def test_halves_make_the_whole(x64):
  s, t, m, y = map(jnp.asarray, (S, T, MEANS, LABELS))
  whole = 1 - (1 - direction.direction_only_loss(s, m, y)) * (1 - direction.norm_only_loss(s, t))
  np.testing.assert_allclose(direction.norm_direction_loss(s, t, m, y), whole, rtol=1e-12)
  check_grads(lambda s: direction.direction_only_loss(s, m, y), (s,), order=1, modes=["rev"])
  check_grads(lambda s: direction.norm_only_loss(s, t), (s,), order=1, modes=["rev"])
  np.testing.assert_allclose(
    direction.direction_only_loss(3 * s, m, y), direction.direction_only_loss(s, m, y), rtol=1e-12
  )


def test_length_pays_only_while_the_student_is_shorter(x64):
  s, t, m, y = map(jnp.asarray, (S, T, MEANS, LABELS))
  gradient = jax.grad(lambda s: direction.norm_direction_loss(s, t, m, y).sum())(s)
  along = np.asarray(jnp.sum(gradient * s, axis=1))  # derivative with respect to the log of the length
  longer = np.linalg.norm(S, axis=1) >= np.linalg.norm(T, axis=1)
  assert longer.any() and not longer.all()
  np.testing.assert_allclose(along[longer], 0, atol=1e-12)
  assert (np.abs(along[~longer]) > 1e-3).all()
  equal = jax.grad(lambda s: direction.norm_direction_loss(s, s, m, y).sum())(s)
  np.testing.assert_allclose(jnp.sum(equal * s, axis=1), 0, atol=1e-12)  # equal lengths belong to the second case


def test_zero_vectors_and_unknown_labels_give_no_nan():
  zero, m = jnp.zeros((2, 4)), jnp.float32(MEANS).at[0].set(0)
  for y in (jnp.array([0, 1]), jnp.array([-1, 9])):
    loss, gradient = jax.vjp(lambda s, y=y: direction.norm_direction_loss(s, zero, m, y), zero)
    np.testing.assert_array_equal(loss, 1)
    np.testing.assert_array_equal(gradient(jnp.ones(2))[0], 0)
  assert bool(jnp.isfinite(jax.grad(lambda s: direction.norm_only_loss(s, zero + 1).sum())(zero)).all())
  assert bool(jnp.isfinite(jax.grad(lambda s: direction.direction_only_loss(s, m, y).sum())(zero)).all())


def test_bfloat16():
  s, y = jnp.asarray(S * 100, jnp.bfloat16), jnp.asarray(LABELS)
  got = direction.norm_direction_loss(s, jnp.float32(T), jnp.float32(MEANS), y)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, reference(np.asarray(s, np.float64), T), rtol=1e-4)


@pytest.mark.parametrize(
  "call, match",
  [
    (
      lambda: direction.norm_direction_loss(jnp.zeros((2, 3)), jnp.zeros((2, 4)), jnp.zeros((5, 4)), jnp.zeros(2, int)),
      "norm_direction_loss",
    ),
    (lambda: direction.direction_only_loss(jnp.zeros((2, 3)), jnp.zeros((5, 4)), jnp.zeros(2, int)), "map the student"),
    (lambda: direction.direction_only_loss(jnp.zeros((2, 3)), jnp.zeros((5, 3)), jnp.zeros(3, int)), "labels must be"),
    (lambda: direction.norm_only_loss(jnp.zeros((2, 3)), jnp.zeros((3, 3))), "same examples"),
  ],
)
def test_wrong_arguments(call, match):
  with pytest.raises(ValueError, match=match):
    call()
