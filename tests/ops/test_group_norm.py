"""Group norm beside NumPy in float64: values, gradients, other types, rows alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.ops.group_norm import channel_moments, group_norm, group_scaling


def reference(x, groups, epsilon=1e-5):
  parts = np.float64(x).reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
  parts = parts - parts.mean((1, 3), keepdims=True)
  return (parts / np.sqrt(np.mean(parts**2, (1, 3), keepdims=True) + epsilon)).reshape(x.shape)


@pytest.mark.parametrize(("shape", "groups"), [((2, 5, 4, 12), 4), ((3, 7, 6), 1), ((2, 3, 3, 8), 8)])
def test_values_equal_numpy(shape, groups):
  x = np.float32(np.random.default_rng(0).normal(2, 3, shape))
  for fn in (group_norm, jax.jit(group_norm, static_argnums=1)):
    np.testing.assert_allclose(fn(jnp.asarray(x), groups), reference(x, groups), rtol=1e-4, atol=2e-6)


def test_a_far_mean_costs_digits_and_nothing_else():
  x = np.float32(np.random.default_rng(0).normal(100, 1, (2, 8, 8, 4)))
  np.testing.assert_allclose(group_norm(jnp.asarray(x), 2), reference(x, 2), atol=0.02)
  flat = group_norm(jnp.full((1, 4, 4, 4), 1000.0), 2)
  assert np.isfinite(flat).all() and np.abs(flat).max() < 20


def test_gradients_equal_finite_differences():
  rng = np.random.default_rng(1)
  x, weight, way = (rng.normal(size=(2, 3, 2, 6)) for _ in range(3))
  own = lambda x: np.sum(weight * np.tanh(reference(x, 3)))  # noqa: E731
  want = (own(x + 1e-5 * way) - own(x - 1e-5 * way)) / 2e-5
  loss = lambda x: jnp.sum(weight.astype(np.float32) * jnp.tanh(group_norm(x, 3)))  # noqa: E731
  grad = jax.grad(loss)(jnp.float32(x))
  np.testing.assert_allclose(np.sum(np.float64(grad) * way), want, rtol=2e-3)
  np.testing.assert_allclose(jax.jvp(loss, (jnp.float32(x),), (jnp.float32(way),))[1], want, rtol=2e-3)


def test_narrow_types_and_rows_that_are_not_finite():
  x = np.float32(np.random.default_rng(2).normal(size=(3, 4, 4, 8)))
  narrow = group_norm(jnp.asarray(x, jnp.bfloat16), 4)
  assert narrow.dtype == jnp.bfloat16
  np.testing.assert_allclose(np.float32(narrow), reference(x, 4), atol=0.05)
  got = group_norm(jnp.asarray(x).at[1].set(jnp.nan), 4)
  np.testing.assert_allclose(got[jnp.array([0, 2])], reference(x, 4)[[0, 2]], rtol=1e-4, atol=2e-6)


def test_groups_of_one_channel_and_of_all():
  x = jnp.asarray(np.random.default_rng(3).normal(size=(2, 5, 6)), jnp.float32)
  scale, _ = group_scaling(channel_moments(x), 1, 0.0)
  np.testing.assert_allclose(scale, 1 / np.std(x, (1, 2))[:, None] * np.ones((1, 6)), rtol=1e-4)
