"""Feature losses against loops in NumPy and literal numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jdistill.losses import feature

RNG = np.random.default_rng(1)
S, T = RNG.normal(size=(2, 5, 6, 3)), RNG.normal(size=(2, 5, 6, 3))


def test_hint(x64):
  s, t = jnp.asarray(S), jnp.asarray(T)
  np.testing.assert_allclose(feature.hint_loss(s, t), ((S - T) ** 2).mean((1, 2, 3)), rtol=1e-12)
  np.testing.assert_allclose(feature.hint_loss(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 4.0]])), [2.5])
  check_grads(lambda s: feature.hint_loss(s, t), (s,), order=1, modes=["rev"])
  assert not jax.grad(lambda t: feature.hint_loss(s, t).sum())(t).any()


def test_hint_mask(x64):
  t, where = jnp.asarray(T), np.zeros((2, 5, 6), bool)
  where[0, 1, :3] = True

  def loss(s):
    return feature.hint_loss(s, t, where=jnp.asarray(where))

  want = [((S - T) ** 2)[0, 1, :3].mean(), 0.0]
  np.testing.assert_allclose(loss(jnp.asarray(S)), want, rtol=1e-12)
  garbage = jnp.asarray(np.where(where[..., None], S, np.nan))
  np.testing.assert_allclose(loss(garbage), want, rtol=1e-12)
  gradient = jax.grad(lambda s: loss(s).sum())(garbage)
  assert np.isfinite(gradient).all() and not gradient[~where].any() and gradient[where].any()
  np.testing.assert_allclose(
    feature.hint_loss(jnp.asarray(S), t, where=jnp.array([0, 1])), [0, ((S - T) ** 2)[1].mean()], rtol=1e-12
  )


@pytest.mark.parametrize("power", [1, 2, 2.5, 3.0, 4])
def test_attention(x64, power):
  def attention(f):
    a = (np.abs(f) ** power).mean(-1).reshape(len(f), -1)
    return a / np.linalg.norm(a, axis=1, keepdims=True)

  s, t = jnp.asarray(S[..., :2]), jnp.asarray(T)
  np.testing.assert_allclose(
    jax.jit(lambda s: feature.attention_map(s, power=power))(s), attention(S[..., :2]), rtol=1e-11
  )
  want = ((attention(S[..., :2]) - attention(T)) ** 2).mean(1)
  loss = jax.jit(lambda s: feature.attention_loss(s, t, power=power))
  np.testing.assert_allclose(loss(s), want, rtol=1e-11)
  check_grads(loss, (s,), order=1, modes=["rev"])
  assert not jax.grad(lambda t: feature.attention_loss(s, t, power=power).sum())(t).any()


def test_attention_literal_numbers_and_invariance():
  # squares (9, 16) and (25, 0) have the directions (9, 16) / sqrt(337) and (1, 0)
  s, t = jnp.array([[[3.0], [4.0]]]), jnp.array([[[5.0], [0.0]]])
  want = ((9 / 337**0.5 - 1) ** 2 + 256 / 337) / 2
  np.testing.assert_allclose(feature.attention_loss(s, t), [want], rtol=1e-6)
  for scale in (1e-15, 1e15, -1.0):
    np.testing.assert_allclose(feature.attention_loss(scale * s, t), [want], rtol=1e-6)
  np.testing.assert_allclose(feature.attention_loss(s, s), [0.0])


def test_attention_pools_the_larger_map(numpy_pool):
  small = np.asarray(numpy_pool(S, 4), np.float32)
  for s, t in ((jnp.float32(S), small), (small, jnp.float32(S))):
    np.testing.assert_allclose(jax.jit(feature.attention_loss)(s, t), [0.0, 0.0], atol=1e-12)
  gradient = jax.jit(jax.grad(lambda s: feature.attention_loss(s, jnp.float32(T)).sum()))(jnp.zeros((2, 5, 6, 3)))
  np.testing.assert_array_equal(gradient, 0)  # a dead map has no direction to move to, and no NaN


def test_review_hcl(x64, numpy_pool):
  def level(a, b, sizes):
    total, weights = ((a - b) ** 2).mean((1, 2, 3)), 1.0
    for k, size in enumerate(sizes):
      total = total + 0.5 ** (k + 1) * ((numpy_pool(a, size) - numpy_pool(b, size)) ** 2).mean((1, 2, 3))
      weights += 0.5 ** (k + 1)
    return total / weights

  s, t = jnp.asarray(S), jnp.asarray(T)
  loss = jax.jit(feature.review_hcl_loss)
  np.testing.assert_allclose(loss(s, t), level(S, T, (4, 2, 1)), rtol=1e-11)
  small = (S[:, :2, :2], T[:, :2, :2])  # 4 and 2 do not fit: 1 has the weight 1/2
  np.testing.assert_allclose(feature.review_hcl_loss(*map(jnp.asarray, small)), level(*small, (1,)), rtol=1e-11)
  vector = (S[:, 0, 0], T[:, 0, 0])
  levels = feature.review_hcl_loss([s, jnp.asarray(vector[0])], [t, jnp.asarray(vector[1])])
  want = level(S, T, (4, 2, 1)) + ((vector[0] - vector[1]) ** 2).mean(1)
  np.testing.assert_allclose(levels, want, rtol=1e-11)
  check_grads(lambda s: loss(s, t), (s,), order=1, modes=["rev"])
  assert not jax.grad(lambda t: loss(s, t).sum())(t).any()


def test_review_hcl_literal_number():
  # mse 2 at full size, means 1 and 0 after pooling: (2 + 1/2) / (1 + 1/2)
  s = jnp.array([2.0, 0.0, 2.0, 0.0]).reshape(1, 2, 2, 1)
  np.testing.assert_allclose(feature.review_hcl_loss(s, jnp.zeros_like(s)), [2.5 / 1.5], rtol=1e-6)


def test_weighted_feature_mse(x64):
  z_s, z_t = jnp.array([[3.0, 0.0], [1.0, 1.0]]), jnp.array([[0.0, 4.0], [1.0, 1.0]])
  weights = feature.logit_gap_weights(z_s, z_t)
  np.testing.assert_allclose(weights, [1 / (1 + np.exp(-5)), 0.5], rtol=1e-12)
  want = np.asarray(weights) * ((S - T) ** 2).mean((1, 2, 3))
  np.testing.assert_allclose(feature.weighted_feature_mse(jnp.asarray(S), jnp.asarray(T), weights), want, rtol=1e-12)
  arguments = (jnp.asarray(S), jnp.asarray(T), weights)
  check_grads(lambda s: feature.weighted_feature_mse(s, *arguments[1:]), arguments[:1], order=1, modes=["rev"])
  _, t, w = jax.grad(lambda *a: feature.weighted_feature_mse(*a).sum(), argnums=(0, 1, 2))(*arguments)
  assert not t.any() and not w.any()
  assert not jax.grad(lambda z: feature.logit_gap_weights(z, z_t).sum())(z_s).any()
  padded = jnp.asarray(S).at[1].set(np.nan)
  one = feature.weighted_feature_mse(padded, jnp.asarray(T), jnp.array([1.0, 0.0]))
  np.testing.assert_allclose(one, [((S - T) ** 2)[0].mean(), 0], rtol=1e-12)


def test_bfloat16():
  s, t = jnp.asarray(S * 1e3, jnp.bfloat16), jnp.asarray(T * 1e3, jnp.float32)
  for loss in (feature.hint_loss, feature.attention_loss, feature.review_hcl_loss):
    value = jax.jit(loss)(s, t)
    assert value.dtype == jnp.float32 and value.shape == (2,)
    np.testing.assert_allclose(value, jax.jit(loss)(s.astype(jnp.float32), t), rtol=1e-6)


@pytest.mark.parametrize(
  "call, match",
  [
    (lambda: feature.hint_loss(jnp.zeros((2, 3)), jnp.zeros((2, 4))), "hint_loss"),
    (lambda: feature.hint_loss(jnp.zeros(2), jnp.zeros(2)), "at least one more"),
    (lambda: feature.hint_loss(jnp.zeros((2, 3)), jnp.zeros((2, 3)), where=jnp.ones(3)), "leading part"),
    (lambda: feature.attention_map(jnp.zeros((2, 3))), "with places"),
    (lambda: feature.attention_map(jnp.zeros((2, 3, 1)), power=0.5), "power must be"),
    (lambda: feature.attention_loss(jnp.zeros((2, 3, 1)), jnp.zeros((2, 4, 1))), "places"),
    (lambda: feature.attention_loss(jnp.zeros((2, 3, 1)), jnp.zeros((3, 3, 1))), "same examples"),
    (lambda: feature.review_hcl_loss([jnp.zeros((2, 3))], []), "1 levels of the student and 0"),
    (lambda: feature.review_hcl_loss(jnp.zeros((2, 3)), jnp.zeros((2, 4))), "review_hcl_loss"),
    (lambda: feature.review_hcl_loss(jnp.zeros((2, 3, 1)), jnp.zeros((2, 3, 1))), "review_hcl_loss"),
    (lambda: feature.weighted_feature_mse(jnp.zeros((2, 3)), jnp.zeros((2, 3)), jnp.ones(3)), "weights must have"),
    (lambda: feature.logit_gap_weights(jnp.zeros((2, 3)), jnp.zeros((2, 4))), "logit_gap_weights"),
  ],
)
def test_wrong_arguments(call, match):
  with pytest.raises(ValueError, match=match):
    call()
