"""Pearson and DIST against NumPy, their invariances and their masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import losses
from jdistill.losses import pearson

dist_loss = jax.jit(losses.dist_loss, static_argnames=("temperature", "eps", "scale_t2"))
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
    losses.dist_loss(jnp.zeros(student), jnp.zeros(teacher), **options)


def test_literal_numbers():
  student = jnp.array([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
  teacher = jnp.log(jnp.array([[1.0, 2.0, 4.0], [1.0, 1.0, 2.0]]))
  # the rows correlate by -0.653347 on average; of two examples one column is the other way round in every class
  np.testing.assert_allclose(dist_loss(student, teacher, temperature=1.0, beta=1.0, gamma=0.0), 1.6533467, rtol=1e-5)
  np.testing.assert_allclose(dist_loss(student, teacher, temperature=1.0, beta=0.0, gamma=1.0), 2.0, rtol=1e-5)


def test_gradient_equals_finite_differences(x64):
  gradient, step = jax.jit(jax.grad(losses.dist_loss))(jnp.asarray(S), jnp.asarray(T)), 1e-6
  for i, c in ((0, 0), (3, 2)):
    bump = np.zeros_like(S)
    bump[i, c] = step
    want = (dist(S + bump, T, 4.0) - dist(S - bump, T, 4.0)) / (2 * step)
    np.testing.assert_allclose(gradient[i, c], want, rtol=1e-4)  # up to eps


def test_order_of_examples_and_of_classes():
  s, t = jnp.asarray(S, jnp.float32), jnp.asarray(T, jnp.float32)
  base = dist_loss(s, t)
  np.testing.assert_allclose(dist_loss(s[::-1], t[::-1]), base, rtol=1e-5)
  np.testing.assert_allclose(dist_loss(s[:, ::-1], t[:, ::-1]), base, rtol=1e-5)
  np.testing.assert_allclose(dist_loss(s, t, scale_t2=False), base / 16, rtol=1e-6)


def test_masks_hold_back_nan_and_may_leave_one_example_or_none():
  s, t = jnp.asarray(S, jnp.float32).at[1:].set(jnp.nan), jnp.asarray(T, jnp.float32).at[1:].set(jnp.inf)
  both = jax.jit(jax.value_and_grad(lambda s, where: losses.dist_loss(s, t, eps=1e-16, where=where)))
  value, gradient = both(s, jnp.arange(5) < 1)
  p, q = softmax(S[:1], 4.0), softmax(T[:1], 4.0)
  np.testing.assert_allclose(value, 32 * (1 - np.corrcoef(p[0], q[0])[0, 1]), rtol=1e-4)  # only `inter` is left
  assert bool(jnp.all(jnp.isfinite(gradient))) and not gradient[1:].any()
  value, gradient = both(s, jnp.zeros(5, bool))
  assert value == 0 and not gradient.any()


def test_finite_in_bfloat16_at_extreme_logits_and_for_constants():
  both = jax.jit(jax.value_and_grad(losses.dist_loss))
  z = jnp.array([[1e4, -1e4, 0.0], [1e4, 5.0, 0.0], [1e4, 0.0, -3.0]], jnp.bfloat16)
  for student, teacher in ((z, -z), (jnp.zeros_like(z), z), (z, jnp.zeros_like(z))):
    value, gradient = both(student, teacher)
    assert value.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
    assert bool(jnp.isfinite(value)) and bool(jnp.all(jnp.isfinite(gradient)))


@pytest.mark.parametrize(
  "call, match",
  [
    (lambda: pearson(jnp.zeros(3), jnp.zeros(2)), "pearson: shapes must be equal"),
    (lambda: pearson(jnp.zeros(3), jnp.zeros(3), eps=0), "pearson: eps must be > 0"),
    (lambda: pearson(jnp.zeros(3), jnp.zeros(3), where=jnp.ones(2)), "pearson: shapes must be equal"),
    (lambda: losses.dist_loss(jnp.zeros((2, 3)), jnp.zeros((2, 3)), where=jnp.ones(3)), "where must have shape"),
    (lambda: losses.dist_loss(jnp.zeros(3), jnp.zeros(3)), "student_logits must have 2 axes"),
  ],
)
def test_other_bad_input(call, match):
  with pytest.raises(ValueError, match=match) as caught:
    call()
  assert "\n" not in str(caught.value)
