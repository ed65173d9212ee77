"""Kernels against NumPy in float64, against wide random networks, and kernel ridge regression against scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from sklearn.gaussian_process.kernels import RBF
from sklearn.kernel_ridge import KernelRidge

from jdistill.ops import krr_predict, krr_solve, linear_kernel, nngp_kernel, ntk_kernel, rbf_kernel

RNG = np.random.default_rng(0)
X, Z = RNG.normal(size=(6, 5)), RNG.normal(size=(4, 5))
DEEP = {"nngp": nngp_kernel, "ntk": ntk_kernel}


def reference(x, z, depth, w, b):
  """The recursions with cosines, in float64: `(covariance, tangent kernel)`."""
  k = lambda u, v: b + w * u @ v.T / u.shape[1]  # noqa: E731
  xz, xx, zz = k(x, z), np.diag(k(x, x)), np.diag(k(z, z))
  tangent = xz
  for _ in range(depth):
    scale = np.sqrt(np.outer(xx, zz))
    angle = np.arccos(np.clip(xz / scale, -1, 1))
    xz = b + w * scale * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)
    tangent = xz + w * (np.pi - angle) / (2 * np.pi) * tangent
    xx, zz = b + w * xx / 2, b + w * zz / 2
  return xz, tangent


@pytest.mark.parametrize(("depth", "w", "b"), [(0, 1.5, 0.1), (1, 2.0, 0.0), (2, 2.0, 0.01), (4, 1.3, 0.5)])
def test_deep_kernels_equal_the_recursions(depth, w, b, x64):
  options = {"depth": depth, "weight_var": w, "bias_var": b}
  x = np.concatenate([X, -X[:1], 3 * X[:1]])  # opposite and parallel to others
  for kernel, want in zip(DEEP.values(), reference(x, X[:5], depth, w, b), strict=True):
    for function in (kernel, jax.jit(kernel, static_argnames=tuple(options))):
      got = function(jnp.asarray(x), jnp.asarray(X[:5]), **options)
      # angles near pi, and the reference's near 0, lose half their digits
      np.testing.assert_allclose(got, want, rtol=1e-7, atol=3e-8)


@pytest.mark.parametrize("name", DEEP)
@pytest.mark.parametrize("apart", [0.0, 1e-4, 1e-3, 0.01, 0.03, 0.1])
@pytest.mark.parametrize("others", [False, True])
def test_float32_keeps_its_digits_at_the_diagonal(name, apart, others):
  """Of rows that differ by little, angles from products would be wrong by 1e-4; of one near row, and of more."""
  rng = np.random.default_rng(1)
  rows = np.float32(rng.normal(size=(6, 40)))
  near = rows + np.float32(apart * rng.normal(size=rows.shape))
  near = np.concatenate([near, near[:2] + np.float32(1e-3)]) if others else near
  with jax.enable_x64(True):
    want = np.asarray(DEEP[name](jnp.asarray(np.float64(rows)), jnp.asarray(np.float64(near))))
  found = DEEP[name](rows, near)
  assert found.dtype == jnp.float32
  np.testing.assert_allclose(found, want, rtol=2e-6, atol=2e-6)
  np.testing.assert_allclose(jax.vmap(DEEP[name])(rows[None], near[None])[0], found, rtol=1e-6)


def test_wide_random_networks_have_these_kernels():
  """Outputs' covariance and gradients' products of networks of two layers, 512 wide, averaged over 40 of them."""
  w, b, width, x = 1.7, 0.2, 512, jnp.float32(X)
  sizes = (5, width, width, 1)

  def output(params, x):
    for number, (weights, bias) in enumerate(params):
      x = x @ weights * np.float32(np.sqrt(w / weights.shape[0])) + np.float32(np.sqrt(b)) * bias[None]
      x = x if number == 2 else jax.nn.relu(x)
    return x[:, 0]

  @jax.jit
  def products(key):
    keys = jax.random.split(key, 6)
    params = [
      (jax.random.normal(keys[2 * i], sizes[i : i + 2]), jax.random.normal(keys[2 * i + 1], sizes[i + 1 : i + 2]))
      for i in range(3)
    ]
    rows = jnp.concatenate([leaf.reshape(len(x), -1) for leaf in jax.tree.leaves(jax.jacobian(output)(params, x))], 1)
    last = jax.jacobian(output)(params, x)[2]  # the covariance given the last hidden layer
    last = jnp.concatenate([last[0].reshape(len(x), -1), last[1].reshape(len(x), -1)], 1)
    return last @ last.T, rows @ rows.T

  found = jax.lax.map(products, jax.random.split(jax.random.key(0), 40))
  options = {"depth": 2, "weight_var": w, "bias_var": b}
  for sample, kernel in zip(found, DEEP.values(), strict=True):
    want = kernel(x, x, **options)
    # means of 40 networks, whose deviations fall as 1 / sqrt(width)
    np.testing.assert_allclose(np.mean(sample, axis=0), want, atol=0.03 * float(jnp.max(want)))
    assert np.abs(np.mean(sample, axis=0) - reference(X, X, 1, w, b)[kernel is ntk_kernel]).max() > 0.1


def test_simple_kernels(x64):
  np.testing.assert_allclose(linear_kernel(jnp.asarray(X), jnp.asarray(Z)), X @ Z.T / 5, rtol=1e-12)
  np.testing.assert_allclose(
    rbf_kernel(jnp.asarray(X), jnp.asarray(Z), gamma=0.3), RBF(np.sqrt(0.5 / 0.3))(X, Z), rtol=1e-10
  )
  np.testing.assert_allclose(rbf_kernel(jnp.asarray(X), jnp.asarray(Z)), RBF(np.sqrt(2.5))(X, Z), rtol=1e-10)


@pytest.mark.parametrize("kernel", [linear_kernel, rbf_kernel, nngp_kernel, ntk_kernel])
def test_gradients_are_finite_with_equal_and_empty_rows(kernel):
  x = jnp.float32(np.concatenate([X, X[:2], -X[:1], np.zeros((2, 5))]))
  options = [{}, {"bias_var": 0.0, "depth": 3}] if kernel in DEEP.values() else [{}]
  for chosen in options:
    gradient = jax.jit(jax.grad(lambda x, chosen=chosen: jnp.sum(jnp.cos(kernel(x, x, **chosen)))))(x)
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 1e-3


@pytest.mark.parametrize("name", DEEP)
def test_gradients_equal_finite_differences(name, x64):
  probe = jnp.asarray(RNG.normal(size=(6, 4)))
  value = jax.jit(lambda x, z: jnp.sum(probe * DEEP[name](x, z)))
  check_grads(value, (jnp.asarray(X), jnp.asarray(Z)), order=1, modes=("rev",), rtol=1e-6)


@pytest.mark.parametrize(("rule", "factor"), [("absolute", 1.0), ("trace_mean", 1 / 6), ("trace", 1.0)])
def test_ridge_regression_equals_scikit_learn(rule, factor, x64):
  k_ss, k_ts, y = np.array(ntk_kernel(X, X)), np.array(ntk_kernel(Z, X)), RNG.normal(size=(6, 3))
  alpha = 0.05 * factor * (1 if rule == "absolute" else np.trace(k_ss))
  want = KernelRidge(alpha=alpha, kernel="precomputed").fit(k_ss, y).predict(k_ts)
  for predict in (krr_predict, jax.jit(krr_predict, static_argnames=("rule", "detach"))):
    for detach in (False, True):
      got = predict(jnp.asarray(k_ts), jnp.asarray(k_ss), jnp.asarray(y), 0.05, rule=rule, detach=detach)
      np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-11)
  np.testing.assert_allclose(krr_solve(k_ss, y, 0.05, rule=rule), np.linalg.solve(k_ss + alpha * np.eye(6), y))


def test_the_ridge_is_a_constant_where_it_is_detached(x64):
  """`d/ds` of `s K` at `s = 1`: a scaled kernel predicts the same under a ridge that scales with it."""
  k, y = jnp.asarray(rbf_kernel(X, X)), jnp.asarray(RNG.normal(size=(6, 2)))
  total = lambda s, **options: jnp.sum(krr_predict(s * k, s * k, y, 0.1, **options))  # noqa: E731
  slope = {
    (rule, detach): float(jax.grad(total)(1.0, rule=rule, detach=detach))
    for rule in ("absolute", "trace_mean", "trace")
    for detach in (False, True)
  }
  assert abs(slope["trace_mean", False]) < 1e-10 and abs(slope["trace", False]) < 1e-10
  regular = k + 0.1 * jnp.trace(k) / 6 * jnp.eye(6)
  solved = jnp.linalg.solve(regular, y)
  want = float(jnp.sum(k @ solved - k @ jnp.linalg.solve(regular, k @ solved)))
  assert abs(want) > 1e-3 and slope["trace_mean", True] == pytest.approx(want, rel=1e-8)
  assert slope["absolute", True] == slope["absolute", False] and abs(slope["trace", True]) > 1e-3


def test_mistakes():
  x, k, y = jnp.float32(X), jnp.eye(6), jnp.ones((6, 2))
  with pytest.raises(ValueError, match="must have one width"):
    ntk_kernel(x, x[:, :3])
  with pytest.raises(ValueError, match="depth=-1"):
    nngp_kernel(x, x, depth=-1)
  with pytest.raises(ValueError, match=r"ridge=0\.0 must be positive"):
    krr_solve(k, y, 0.0)
  with pytest.raises(ValueError, match="choose one of absolute, trace_mean, trace"):
    krr_solve(k, y, 1.0, rule="mean")
  with pytest.raises(ValueError, match="must be square"):
    krr_solve(k[:5], y, 1.0)
  with pytest.raises(ValueError, match="one row for each of 6"):
    krr_solve(k, y[:5], 1.0)
  with pytest.raises(ValueError, match="one column for each of 6"):
    krr_predict(k[:, :5], k, y, 1.0)
