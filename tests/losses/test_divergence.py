"""Divergences of tokens against NumPy in float64, their limits and bounds, and TAID's target."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_losses as formulas
import numpy_sequence
import pytest

from jdistill import losses

RNG = np.random.default_rng(0)
STUDENT, TEACHER = 2 * RNG.normal(size=(2, 3, 4, 9))  # [B, T, V]
NUMBERS = {
  "generalized_jsd": {"beta": 0.3},
  "skew_kl": {"skew": 0.1},
  "skew_reverse_kl": {"skew": 0.1},
  "total_variation": {},
}


def rows(x):
  return np.float64(x).reshape(-1, x.shape[-1])


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_values_and_gradients_are_those_of_numpy(x64, name, temperature):
  function = jax.jit(lambda s: getattr(losses, name)(s, TEACHER, temperature=temperature, **NUMBERS[name]))

  def numpy(s):
    return getattr(numpy_sequence, name)(rows(s), rows(TEACHER), None, temperature=temperature, **NUMBERS[name])

  assert function(STUDENT).shape == (3, 4)
  np.testing.assert_allclose(function(STUDENT).reshape(-1), numpy(STUDENT), rtol=1e-10, atol=1e-13)
  direction = RNG.normal(size=STUDENT.shape)
  found = jnp.sum(jax.grad(lambda s: jnp.sum(function(s)))(jnp.asarray(STUDENT)) * direction)
  np.testing.assert_allclose(found, formulas.derivative(numpy, STUDENT, direction), rtol=1e-6)
  by_name = {"generalized_jsd": "jsd"}.get(name, name)
  plain = losses.token_divergence(
    STUDENT, TEACHER, kind=by_name, temperature=temperature, scale_t2=False, **NUMBERS[name]
  )
  np.testing.assert_allclose(temperature**2 * plain, function(STUDENT), rtol=1e-12)


@pytest.mark.parametrize(
  "kind, other", [("forward_kl", "kl_divergence"), ("reverse_kl", "reverse_kl"), ("adaptive_kl", "adaptive_kl")]
)
def test_kinds_are_the_losses_of_their_names(x64, kind, other):
  np.testing.assert_allclose(
    losses.token_divergence(STUDENT, TEACHER, kind=kind, temperature=2.0),
    getattr(losses, other)(STUDENT, TEACHER, temperature=2.0),
    rtol=1e-12,
  )
  assert not np.allclose(losses.token_divergence(STUDENT, TEACHER, kind=kind), 0)


def test_jsd_between_both_kls_and_the_symmetric_one(x64):
  """GKD's limits: divided by beta the forward KL, divided by 1 - beta the reverse."""
  near, far = (losses.generalized_jsd(STUDENT, TEACHER, beta=beta) for beta in (1e-6, 1 - 1e-6))
  np.testing.assert_allclose(near / 1e-6, losses.kl_divergence(STUDENT, TEACHER), rtol=1e-3)
  np.testing.assert_allclose(far / 1e-6, losses.reverse_kl(STUDENT, TEACHER), rtol=1e-3)
  half = losses.generalized_jsd(STUDENT, TEACHER, beta=0.5)
  np.testing.assert_allclose(half, losses.js_divergence(STUDENT, TEACHER), rtol=1e-10)
  swapped = losses.generalized_jsd(TEACHER, STUDENT, beta=0.7)
  np.testing.assert_allclose(swapped, losses.generalized_jsd(STUDENT, TEACHER, beta=0.3), rtol=1e-10)
  for beta in (0, 1, -0.5):
    with pytest.raises(ValueError, match=r"beta must be in \(0, 1\) \(0 would be forward_kl"):
      losses.generalized_jsd(STUDENT, TEACHER, beta=beta)


def test_skew_keeps_value_and_gradient_bounded_where_the_student_has_nothing(x64):
  """DistiLLM: as s tends to 0 on a token that the teacher wants, the KL grows without bound, the skew KL does not."""
  teacher = jnp.array([[0.0, -40.0]])
  found = {}
  for gap in (10.0, 40.0, 80.0):
    student = jnp.array([[-gap, 0.0]])
    for name in ("kl_divergence", "skew_kl", "skew_reverse_kl"):
      found[name, gap] = jax.value_and_grad(lambda z, name=name: getattr(losses, name)(z, teacher)[0])(student)
  np.testing.assert_allclose([found["kl_divergence", gap][0] for gap in (10.0, 40.0, 80.0)], [10, 40, 80], rtol=1e-4)
  for name in ("skew_kl", "skew_reverse_kl"):
    for gap in (40.0, 80.0):
      value, gradient = found[name, gap]
      np.testing.assert_allclose(value, -np.log(0.1), rtol=1e-6)
      assert np.abs(gradient).max() < 1e-10
  assert np.abs(found["kl_divergence", 80.0][1]).max() > 0.99


def test_impossible_on_both_sides_stays_finite_in_float32():
  """A logarithm of the mixed probability would be that of 0."""
  z = jnp.float32([[0.0, -200.0, -300.0]])
  for name, numbers in NUMBERS.items():
    value, gradient = jax.value_and_grad(lambda s, name=name: getattr(losses, name)(s, z[:, ::-1])[0])(z)
    assert np.isfinite(value) and np.isfinite(gradient).all(), (name, numbers)


def test_the_weight_of_adaptive_kl_is_held_fixed(x64):
  s, t = rows(STUDENT)[:1], rows(TEACHER)[:1]
  p, q = formulas.softmax(t), formulas.softmax(s)
  order = np.argsort(-p[0])
  head = order[: max(1, int(np.sum(np.cumsum(p[0, order]) <= 0.6)))]
  weight = np.abs(p - q)[0, head].sum() / np.abs(p - q).sum()
  assert 0.05 < weight < 0.95
  reverse = q * (np.log(q / p) - np.sum(q * np.log(q / p)))
  found = jax.grad(lambda s: losses.adaptive_kl(s, t, head_mass=0.6)[0])(jnp.asarray(s))
  np.testing.assert_allclose(found, weight * (q - p) + (1 - weight) * reverse, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("t", [0.0, 0.4, 1.0])
def test_the_gradient_of_taid_is_student_minus_target(x64, t):
  q = formulas.softmax(STUDENT)
  target = formulas.softmax((1 - t) * STUDENT + t * TEACHER)
  value = losses.taid_loss(STUDENT, TEACHER, interpolation=t)
  np.testing.assert_allclose(value, -np.sum(target * np.log(q), axis=-1), rtol=1e-10)
  gradient = jax.grad(lambda s: jnp.sum(losses.taid_loss(s, TEACHER, interpolation=t)))(jnp.asarray(STUDENT))
  np.testing.assert_allclose(gradient, q - target, rtol=1e-9, atol=1e-14)
  if not t:
    np.testing.assert_allclose(gradient, 0, atol=1e-14)
  if t == 1:
    same = jax.grad(lambda s: jnp.sum(losses.kl_divergence(s, TEACHER)))(jnp.asarray(STUDENT))
    np.testing.assert_allclose(gradient, same, rtol=1e-9, atol=1e-14)


def test_no_gradient_reaches_the_teacher():
  s, t = jnp.float32(STUDENT), jnp.float32(TEACHER)
  for name in (*NUMBERS, "adaptive_kl"):
    assert not jax.grad(lambda t, name=name: jnp.sum(getattr(losses, name)(s, t)))(t).any()
  assert not jax.grad(lambda t: jnp.sum(losses.taid_loss(s, t, interpolation=0.5)))(t).any()


def test_unknown_kinds_are_named():
  with pytest.raises(ValueError, match="kind='kl' is not one of forward_kl, reverse_kl, jsd"):
    losses.token_divergence(STUDENT, TEACHER, kind="kl")
