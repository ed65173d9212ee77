"""The discrepancy of characteristic functions against NumPy in float64, normal distributions and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jdistill.losses import characteristic_function_discrepancy as discrepancy

RNG = np.random.default_rng(0)
REAL, SYNTHETIC, T = RNG.normal(size=(3, 5, 4)), RNG.normal(size=(3, 2, 4)), RNG.normal(size=(6, 4))
WEIGHT = np.array([[1, 1, 1, 1, 1], [2, 1, 0, 0, 0.5], [0, 0, 3, 0, 0]])


def reference(real, synthetic, t, a, p, root=True, weight=None):
  """By complex numbers, their sizes and angles."""
  total = 0.0
  for c in range(len(real)):
    phi = np.average(np.exp(1j * real[c] @ t.T), 0, None if weight is None else weight[c])
    psi = np.exp(1j * synthetic[c] @ t.T).mean(0)
    amplitude = (np.abs(phi) - np.abs(psi)) ** 2
    phase = 2 * np.abs(phi) * np.abs(psi) * (1 - np.cos(np.angle(phi) - np.angle(psi)))
    squared = a * amplitude + p * phase
    total += np.mean(np.sqrt(squared) if root else squared)
  return total


@pytest.mark.parametrize(("a", "p", "root"), [(0.5, 0.5, True), (0.9, 0.1, True), (0, 1.0, True), (2.0, 0.25, False)])
def test_values_and_gradients_equal_numpy(a, p, root, x64):
  options = {"amplitude_weight": a, "phase_weight": p, "root": root, "real_weight": jnp.asarray(WEIGHT)}
  loss = lambda s, t: discrepancy(jnp.asarray(REAL), s, t, **options)  # noqa: E731
  sides = jnp.asarray(SYNTHETIC), jnp.asarray(T)
  np.testing.assert_allclose(loss(*sides), reference(REAL, SYNTHETIC, T, a, p, root, WEIGHT), rtol=1e-12)
  check_grads(jax.jit(loss), sides, order=1, modes=["rev"])
  assert not jax.grad(lambda r: discrepancy(r, *sides, **options))(jnp.asarray(REAL)).any()


def test_normal_distributions_in_closed_form(x64):
  """Quadrature nodes as embeddings: `E exp(itX) = exp(i t mean - t^2 var / 2)` to the last digits."""
  nodes, weights = np.polynomial.hermite_e.hermegauss(40)
  t, (m, s), (n, u) = np.linspace(-2, 2, 9), (0.3, 0.8), (-0.4, 1.3)
  found = jax.jit(discrepancy)(
    jnp.asarray((m + s * nodes)[None, :, None]),
    jnp.asarray((n + u * nodes)[None, :, None]),
    jnp.asarray(t[:, None]),
    amplitude_weight=0.7,
    phase_weight=0.2,
    real_weight=jnp.asarray(weights[None]),
    synthetic_weight=jnp.asarray(weights[None]),
  )
  phi, psi = np.exp(-(t**2) * s**2 / 2), np.exp(-(t**2) * u**2 / 2)
  wanted = np.sqrt(0.7 * (phi - psi) ** 2 + 0.2 * 2 * phi * psi * (1 - np.cos(t * (m - n))))
  np.testing.assert_allclose(found, wanted.mean(), rtol=1e-10)


def test_the_two_parts_are_the_whole(x64):
  """Equal weights take a shorter way: the squared distance itself."""
  sides = jnp.asarray(REAL), jnp.asarray(SYNTHETIC), jnp.asarray(T)
  part = lambda a, p: discrepancy(*sides, amplitude_weight=a, phase_weight=p, root=False)  # noqa: E731
  phi, psi = (np.exp(1j * x @ T.T).mean(1) for x in (REAL, SYNTHETIC))
  np.testing.assert_allclose(part(1, 0) + part(0, 1), np.sum(np.abs(phi - psi) ** 2) / len(T), rtol=1e-12)
  np.testing.assert_allclose(part(1, 1), part(1, 0) + part(0, 1), rtol=1e-12)


@pytest.mark.parametrize("weights", [{}, {"amplitude_weight": 0.75, "phase_weight": 0.25}])
def test_equal_distributions_and_what_changes_nothing(weights):
  real, t = jnp.float32(REAL), jnp.float32(T)
  loss = jax.jit(lambda r, s, t=t: discrepancy(r, s, t, **weights))
  value, grads = jax.jit(jax.value_and_grad(loss, argnums=(1, 2)))(real, real, t)
  assert value == 0 and not any(grad.any() for grad in grads)
  twice = jnp.concatenate([real[:, ::-1], real], axis=1)
  assert loss(real, twice) < 1e-6  # the same distribution from other rows: rounding of sums
  synthetic = jnp.float32(SYNTHETIC)
  moved = jnp.float32(RNG.normal(size=(1, 1, 4)))
  turn = jnp.float32(np.linalg.qr(RNG.normal(size=(4, 4)))[0])
  plain = loss(real, synthetic)
  for r, s, other in (
    (real + moved, synthetic + moved, t),
    (real @ turn, synthetic @ turn, t @ turn),
    (real, synthetic[:, ::-1], -t),
  ):
    np.testing.assert_allclose(loss(r, s, other), plain, rtol=1e-5)


def test_masked_rows_hold_anything_and_classes_without_weight_add_nothing():
  real, t, half = jnp.float32(REAL), jnp.float32(T), jnp.float32([[1, 0]] * 3)
  weight = jnp.float32(WEIGHT).at[1].set(0)
  broken = jnp.where(weight[..., None] > 0, real, jnp.nan)
  spoilt = jnp.float32(SYNTHETIC).at[:, 1].set(jnp.inf)
  loss = lambda s, t: discrepancy(broken, s, t, amplitude_weight=0.9, real_weight=weight, synthetic_weight=half)  # noqa: E731
  value, grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(spoilt, t)
  kept = np.array([0, 2])
  want = discrepancy(
    real[kept], jnp.float32(SYNTHETIC)[kept, :1], t, amplitude_weight=0.9, real_weight=jnp.float32(WEIGHT)[kept]
  )
  np.testing.assert_allclose(value, want, rtol=1e-6)
  assert all(np.isfinite(grad).all() for grad in grads)
  assert not grads[0][1].any() and not grads[0][:, 1].any() and grads[0][0, 0].any()


def test_near_functions_keep_their_digits():
  """In float32, where `|Phi| |Psi| - Re Phi Re Psi - Im Phi Im Psi` has none left."""
  real = jnp.float32(REAL)
  near = jnp.float32(REAL + 1e-4 * RNG.normal(size=REAL.shape))
  for a, p in ((0.5, 0.5), (0.8, 0.2)):
    found = discrepancy(real, near, jnp.float32(T), amplitude_weight=a, phase_weight=p)
    wanted = reference(np.float64(real), np.float64(near), np.float64(jnp.float32(T)), a, p)
    np.testing.assert_allclose(found, wanted, rtol=5e-3)  # sums of sines with 1e-7 against 2e-5


def test_mistakes():
  real, synthetic, t = jnp.float32(REAL), jnp.float32(SYNTHETIC), jnp.float32(T)
  with pytest.raises(ValueError, match="differ in classes or features"):
    discrepancy(real[:2], synthetic, t)
  with pytest.raises(ValueError, match=r"frequencies \(6, 3\) do not fit 4 features"):
    discrepancy(real, synthetic, t[:, :3])
  with pytest.raises(ValueError, match=r"frequencies \(0, 4\) do not fit"):
    discrepancy(real, synthetic, t[:0])
  with pytest.raises(ValueError, match="frequencies must have 2 axes"):
    discrepancy(real, synthetic, t[0])
  with pytest.raises(ValueError, match="phase_weight must be >= 0, got -1"):
    discrepancy(real, synthetic, t, phase_weight=-1)
  with pytest.raises(ValueError, match=r"weights \(3, 2\) do not fit"):
    discrepancy(real, synthetic, t, real_weight=jnp.ones((3, 2)))
