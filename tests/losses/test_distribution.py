"""Distribution matching and batch-norm statistics against NumPy in float64, literal numbers and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jdistill.losses import bn_stat_loss, distribution_matching

RNG = np.random.default_rng(0)
REAL, SYNTHETIC = RNG.normal(size=(3, 5, 4)), RNG.normal(size=(3, 2, 4))
WEIGHT = np.array([[1, 1, 1, 1, 1], [2, 1, 0, 0, 0.5], [0, 0, 3, 0, 0]])
MOMENTS = [(RNG.normal(size=n), RNG.uniform(0.5, 2, n)) for n in (3, 5, 2)]
RUNNING = [(RNG.normal(size=n), RNG.uniform(0.5, 2, n)) for n in (3, 5, 2)]


def on_device(tree):
  return jax.tree.map(jnp.asarray, tree)


def test_class_means_equal_numpy(x64):
  wanted = sum(np.sum((REAL[c].mean(0) - SYNTHETIC[c].mean(0)) ** 2) for c in range(3))
  real, synthetic, weight = on_device((REAL, SYNTHETIC, WEIGHT))
  np.testing.assert_allclose(distribution_matching(real, synthetic), wanted, rtol=1e-12)
  wanted = sum(np.sum((np.average(REAL[c], 0, WEIGHT[c]) - SYNTHETIC[c].mean(0)) ** 2) for c in range(3))
  np.testing.assert_allclose(distribution_matching(real, synthetic, real_weight=weight), wanted, rtol=1e-12)
  check_grads(lambda s: distribution_matching(real, s, real_weight=weight), (synthetic,), order=1, modes=["rev"])
  assert not jax.grad(distribution_matching)(real, synthetic).any()


def test_literal_means():
  real, synthetic = jnp.float32([[[1, 0], [3, 0]], [[0, 4], [0, 0]]]), jnp.float32([[[0, 1]], [[0, 2]]])
  assert float(distribution_matching(real, synthetic)) == 5.0  # (2, 0) against (0, 1), and (0, 2) against itself


def test_what_lies_behind_the_mask_does_not_matter():
  real, weight = jnp.float32(REAL), jnp.float32(WEIGHT)
  bad = jnp.where(weight[..., None] > 0, real, jnp.nan)
  loss = lambda r, s, **own: distribution_matching(r, s, real_weight=weight, **own)  # noqa: E731
  synthetic = jnp.float32(SYNTHETIC)
  np.testing.assert_array_equal(loss(bad, synthetic), loss(real, synthetic))
  # the same on the other side, where gradients flow
  half = jnp.float32([[1, 0]] * 3)
  broken = synthetic.at[:, 1].set(jnp.nan)
  value, grad = jax.value_and_grad(lambda s: loss(real, s, synthetic_weight=half))(broken)
  np.testing.assert_allclose(value, loss(real, synthetic[:, :1]), rtol=1e-6)
  assert np.isfinite(grad).all() and not grad[:, 1].any() and grad[:, 0].any()


def test_a_class_without_weight_adds_nothing():
  real, synthetic = jnp.float32(REAL), jnp.float32(SYNTHETIC)
  weight = jnp.float32(np.ones((3, 5))).at[1].set(0.0)
  value, grad = jax.value_and_grad(lambda s: distribution_matching(real, s, real_weight=weight))(synthetic)
  kept = np.array([0, 2])
  np.testing.assert_allclose(value, distribution_matching(real[kept], synthetic[kept]), rtol=1e-6)
  assert not grad[1].any() and grad[0].any()


def test_batch_norm_statistics_equal_numpy(x64):
  def reference(moments, first=10.0, v=1.0):
    total = 0.0
    for number, ((m, s), (rm, rs)) in enumerate(zip(moments, RUNNING, strict=True)):
      total += (first if number == 0 else 1.0) * (np.linalg.norm(m - rm) + v * np.linalg.norm(s - rs))
    return total

  batch, running = on_device((MOMENTS, RUNNING))
  np.testing.assert_allclose(bn_stat_loss(batch, running), reference(MOMENTS), rtol=1e-12)
  found = bn_stat_loss(batch, running, first_layer_multiplier=3.0, variance_weight=0.5)
  np.testing.assert_allclose(found, reference(MOMENTS, 3.0, 0.5), rtol=1e-12)
  check_grads(lambda b: bn_stat_loss(b, running), (batch,), order=1, modes=["rev"])
  assert not any(g.any() for g in jax.tree.leaves(jax.grad(bn_stat_loss, argnums=1)(batch, running)))


def test_literal_statistics_and_the_gradient_of_equal_ones():
  batch = [(jnp.float32([3, 0]), jnp.float32([1, 5])), (jnp.float32([0]), jnp.float32([1]))]
  running = [(jnp.float32([0, 4]), jnp.float32([1, 3])), (jnp.float32([2]), jnp.float32([1]))]
  assert float(bn_stat_loss(batch, running)) == 10 * (5 + 2) + 2
  grads = jax.tree.leaves(jax.grad(lambda b: bn_stat_loss(b, b[::-1][::-1]))(batch))
  assert all(np.isfinite(g).all() and not g.any() for g in grads)


def test_mistakes():
  real, synthetic = jnp.float32(REAL), jnp.float32(SYNTHETIC)
  with pytest.raises(ValueError, match="differ in classes or features"):
    distribution_matching(real[:2], synthetic)
  with pytest.raises(ValueError, match=r"weights \(3, 2\) do not fit"):
    distribution_matching(real, synthetic, real_weight=jnp.ones((3, 2)))
  with pytest.raises(ValueError, match="at least one"):
    bn_stat_loss([], [])
  batch = on_device(MOMENTS)
  with pytest.raises(ValueError, match="2 layers and running 3"):
    bn_stat_loss(batch[:2], batch)
  with pytest.raises(ValueError, match=r"layer 0: moments \[\(5,\), \(5,\)\]"):
    bn_stat_loss(batch[1:], batch[:2])
