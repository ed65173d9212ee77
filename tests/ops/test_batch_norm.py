"""Batch norm whose derivative is stated in two sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.ops import batch_norm

EPS = 0.1


def spelled_out(x, scale, bias):
  axes = tuple(range(x.ndim - 1))
  mean = jnp.mean(x, axes)
  variance = jnp.mean((x - mean[(None,) * len(axes)]) ** 2, axes)
  gain = scale / jnp.sqrt(variance + EPS)
  wide = (None,) * len(axes)
  return (x - mean[wide]) * gain[wide] + bias[wide], mean, variance


def ours(x, scale, bias):
  return batch_norm(x, scale, bias, EPS)


def operands(shape, mean=1.0, dtype=np.float64):
  rng = np.random.default_rng(2)
  x = rng.normal(mean, 2.0, size=shape)
  return tuple(jnp.asarray(a, dtype) for a in (x, rng.normal(size=shape[-1:]), rng.normal(size=shape[-1:])))


def test_values_and_moments_equal_numpy(x64):
  x, scale, bias = map(np.asarray, operands((4, 3, 2, 5)))
  y, mean, variance = ours(x, scale, bias)
  rows = x.reshape(-1, 5)
  np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-12)
  np.testing.assert_allclose(variance, rows.var(0), rtol=1e-12)
  want = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + EPS) * scale + bias
  np.testing.assert_allclose(y.reshape(-1, 5), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(4, 3, 2, 5), (6, 4)])
@pytest.mark.parametrize("which", ["y", "moments", "all"])
def test_derivatives_equal_those_of_the_parts(x64, shape, which):
  primals = operands(shape)
  tangents = tuple(jnp.cos(a) for a in primals)
  parts = {"y": slice(0, 1), "moments": slice(1, 3), "all": slice(0, 3)}[which]
  found = []
  for f in (ours, spelled_out):
    value = lambda *a, f=f: sum(jnp.sum(jnp.tanh(part) ** 2) for part in f(*a)[parts])  # noqa: E731
    grad = jax.grad(value, (0, 1, 2))
    second = jax.grad(lambda *a, g=grad: sum(jnp.sum(jnp.sin(part)) for part in g(*a)), (0, 1, 2))
    found.append(
      (jax.jit(grad)(*primals), jax.jvp(f, primals, tangents), jax.jvp(grad, primals, tangents), second(*primals))
    )
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), *found)


def test_rounding_grows_with_the_mean_alone():
  """In single precision at a mean of fifty deviations, and of a channel that is constant."""
  x, scale, bias = operands((8, 5, 5, 3), mean=100.0, dtype=np.float32)
  x = x.at[..., 0].set(100.0)
  weights = jnp.asarray(np.random.default_rng(3).normal(size=x.shape), jnp.float32)
  y, _, variance = batch_norm(x, scale, bias, 1e-5)
  rows = np.asarray(x, np.float64).reshape(-1, 3)
  np.testing.assert_allclose(variance, rows.var(0), rtol=1e-3, atol=2e-2)
  want = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5) * np.asarray(scale) + np.asarray(bias)
  np.testing.assert_allclose(y.reshape(-1, 3)[:, 1:], want[:, 1:], rtol=1e-3, atol=1e-3)
  assert np.isfinite(jax.grad(lambda x: jnp.sum(weights * batch_norm(x, scale, bias, 1e-5)[0]))(x)).all()


def test_sums_of_a_gradient_are_those_of_scale_and_bias():
  """What the derivative is for: two reductions of what arrives, no more."""
  x, scale, bias = operands((8, 6, 6, 3), dtype=np.float32)
  pull = jax.jit(lambda x, scale, bias, d: jax.vjp(lambda *a: ours(*a)[0], x, scale, bias)[1](d))
  lowered = pull.lower(x, scale, bias, x).compile().as_text()
  reductions = [line for line in lowered.splitlines() if " reduce(" in line]
  assert len(reductions) == 4, reductions  # two of them are the moments
