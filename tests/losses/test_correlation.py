"""Pearson and DIST against NumPy, their invariances and their masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.losses import dist_loss, pearson

RNG = np.random.default_rng(0)
S, T = RNG.normal(size=(5, 4)), RNG.normal(size=(5, 4))


def softmax(z, t):
  e = np.exp(z / t - (z / t).max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def dist(s, t, temperature, beta=2.0, gamma=2.0):
  p, q = softmax(s, temperature), softmax(t, temperature)
  inter = np.mean([1 - np.corrcoef(p[i], q[i])[0, 1] for i in range(len(p))])
  intra = np.mean([1 - np.corrcoef(p[:, c], q[:, c])[0, 1] for c in range(p.shape[1])])
  return temperature**2 * (beta * inter + gamma * intra)


def test_pearson_is_numpys_and_ignores_scale_and_shift(x64):
  a, b = RNG.normal(size=6), RNG.normal(size=6)
  want = np.corrcoef(a, b)[0, 1]
  np.testing.assert_allclose(pearson(jnp.asarray(a), jnp.asarray(b)), want, rtol=1e-7)
  np.testing.assert_allclose(pearson(jnp.asarray(3 * a + 2), jnp.asarray(b)), want, rtol=1e-7)
  np.testing.assert_allclose(pearson(jnp.array([1.0, 2.0, 3.0]), jnp.array([6.0, 4.0, 2.0])), -1, rtol=1e-7)


def test_a_constant_has_a_finite_gradient():
  gradient = jax.grad(lambda a: pearson(a, jnp.array([1.0, 2.0, 4.0])))(jnp.ones(3))
  assert bool(jnp.all(jnp.isfinite(gradient)))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dist_is_numpys(temperature, x64):
  got = dist_loss(jnp.asarray(S), jnp.asarray(T), temperature=temperature, eps=1e-16)
  np.testing.assert_allclose(got, dist(S, T, temperature), rtol=1e-6)
  # per example shifts of logits change nothing, and equal logits cost nothing
  shifted = jnp.asarray(S + np.arange(5)[:, None])
  np.testing.assert_allclose(dist_loss(shifted, jnp.asarray(T), temperature=temperature, eps=1e-16), got, rtol=1e-9)
  np.testing.assert_allclose(dist_loss(jnp.asarray(S), jnp.asarray(S), eps=1e-16), 0, atol=1e-9)


def test_masked_rows_count_for_nothing(x64):
  where = jnp.array([True, True, True, False, False])
  spoiled = jnp.asarray(S).at[3:].set(1e3)
  got, gradient = jax.value_and_grad(lambda s: dist_loss(s, jnp.asarray(T), eps=1e-16, where=where))(spoiled)
  np.testing.assert_allclose(got, dist(S[:3], T[:3], 4.0), rtol=1e-6)
  np.testing.assert_array_equal(gradient[3:], 0)


def test_the_teacher_gets_no_gradient():
  s, t = jnp.asarray(S, jnp.float32), jnp.asarray(T, jnp.float32)
  np.testing.assert_array_equal(jax.grad(dist_loss, argnums=1)(s, t), 0)


@pytest.mark.parametrize("case", [((5, 4), (5, 3), {}), ((1, 4), (1, 4), {}), ((5, 4), (5, 4), {"temperature": 0.0})])
def test_bad_input(case):
  student, teacher, options = case
  with pytest.raises(ValueError, match="dist_loss"):
    dist_loss(jnp.zeros(student), jnp.zeros(teacher), **options)
