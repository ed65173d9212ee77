"""DKD and OFA against literal numbers, NumPy in float64 and the identities of their papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jdistill import losses

Z_S = np.array([[2.0, 0.0, -1.0]])
Z_T = np.array([[0.0, np.log(2.0), np.log(4.0)]])  # (1/7, 2/7, 4/7)


def softmax(z):
  e = np.exp(z - z.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def numpy_parts(student, teacher, labels, temperature):
  target, others = [], []
  for z, t, y in zip(student, teacher, labels, strict=True):
    p, q = softmax(t / temperature), softmax(z / temperature)
    b_t, b_s = np.array([p[y], 1 - p[y]]), np.array([q[y], 1 - q[y]])
    target.append((b_t * np.log(b_t / b_s)).sum())
    p, q = np.delete(p, y) / (1 - p[y]), np.delete(q, y) / (1 - q[y])
    others.append((p * np.log(p / q)).sum())
  return np.array(target), np.array(others)


def case(seed, batch=4, classes=6):
  rng = np.random.default_rng(seed)
  return 2 * rng.normal(size=(batch, classes)), 2 * rng.normal(size=(batch, classes)), rng.integers(classes, size=batch)


def test_dkd_literal_numbers():
  args = (jnp.float32(Z_S), jnp.float32(Z_T), jnp.array([0]))
  target = losses.dkd_loss(*args, temperature=1.0, alpha=1.0, beta=0.0)
  others = losses.dkd_loss(*args, temperature=1.0, alpha=0.0, beta=1.0)
  np.testing.assert_allclose(target, [1.2055054], rtol=1e-5)
  np.testing.assert_allclose(others, [0.34341418], rtol=1e-5)


def test_dkd_equals_numpy_and_finite_differences(x64):
  student, teacher, labels = case(0)
  target, others = numpy_parts(student, teacher, labels, 4.0)
  function = jax.jit(lambda z: losses.dkd_loss(z, jnp.asarray(teacher), jnp.asarray(labels), alpha=0.5, beta=3.0))
  np.testing.assert_allclose(function(jnp.asarray(student)), 16 * (0.5 * target + 3 * others), rtol=1e-9)
  check_grads(lambda z: jnp.sum(function(z)), (jnp.asarray(student),), order=1, modes=["rev"])


def test_dkd_parts_make_up_kl(x64):
  student, teacher, labels = (jnp.asarray(x) for x in case(1))
  loss = jax.jit(losses.dkd_loss, static_argnames="scale_t2")
  target = loss(student, teacher, labels, temperature=2.0, alpha=1.0, beta=0.0, scale_t2=False)
  others = loss(student, teacher, labels, temperature=2.0, alpha=0.0, beta=1.0, scale_t2=False)
  own = jnp.take_along_axis(jax.nn.softmax(teacher / 2), labels[:, None], axis=1)[:, 0]
  want = losses.kl_divergence(student, teacher, temperature=2.0, scale_t2=False)
  np.testing.assert_allclose(target + (1 - own) * others, want, rtol=1e-10)


def test_dkd_invariances_and_labels():
  student, teacher, labels = case(2)
  student, teacher, labels = jnp.float32(student), jnp.float32(teacher), jnp.asarray(labels, jnp.int32)
  loss = jax.jit(losses.dkd_loss)
  base = loss(student, teacher, labels)
  np.testing.assert_allclose(loss(student + 5, teacher - 2, labels), base, rtol=1e-4)
  np.testing.assert_allclose(loss(student[:, ::-1], teacher[:, ::-1], 5 - labels), base, rtol=1e-4)
  np.testing.assert_array_equal(loss(student, student, labels), np.zeros(4))
  with pytest.warns(UserWarning, match="soft labels"):
    soft = losses.dkd_loss(student, teacher, 0.4 / 6 + 0.6 * jax.nn.one_hot(labels, 6))
  np.testing.assert_allclose(soft, base, rtol=1e-5)
  gradients = jax.jit(jax.grad(lambda s, t, y: jnp.sum(loss(s, t, y)), argnums=(0, 1)))
  grad_s, grad_t = gradients(student, teacher, labels.at[0].set(6).at[1].set(-1))
  assert not grad_s[:2].any() and grad_s[2:].any() and not grad_t.any()
  np.testing.assert_array_equal(loss(student, teacher, jnp.array([6, -1, 0, 0]))[:2], [0, 0])


@pytest.mark.parametrize("function", [losses.dkd_loss, losses.ofa_loss])
def test_finite_in_bfloat16_and_at_extreme_logits(function):
  both = jax.jit(jax.value_and_grad(lambda z, t: jnp.sum(function(z, t, jnp.array([0, 1])))))
  z = jnp.array([[1e4, -1e4, 0.0, 3.0], [1e4, -1e4, 0.0, 3.0]], jnp.bfloat16)
  for teacher in (z, -z):  # the true class has all the mass of the teacher, or none
    value, gradient = both(z, teacher)
    assert value.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
    assert bool(jnp.isfinite(value)) and bool(jnp.all(jnp.isfinite(gradient)))
  absent = jnp.array([[1.0, 0.0, 2.0, -jnp.inf], [1.0, 0.0, 2.0, -jnp.inf]])
  value, gradient = both(absent, -absent.at[:, 3].set(jnp.inf))
  want = jnp.sum(function(absent[:, :3], -absent[:, :3], jnp.array([0, 1])))
  np.testing.assert_allclose(value, want, rtol=1e-5)
  assert bool(jnp.all(jnp.isfinite(gradient)))


def test_ofa_literal_numbers():
  teacher, labels = jnp.float32(Z_T), jnp.array([0])
  weights = losses.ofa_target_weights(teacher, labels, exponent=1.5)
  np.testing.assert_allclose(weights, [[0.22176568, 0.15272071, 0.4319594]], rtol=1e-5)
  np.testing.assert_allclose(losses.ofa_loss(jnp.float32(Z_S), teacher, labels, exponent=1.5), [1.7382912], rtol=1e-5)


def test_ofa_equals_numpy_and_finite_differences(x64):
  student, teacher, labels = case(3)
  p, m = softmax(teacher / 2), np.eye(6)[labels]
  weights = (p + m) ** 1.3 - m
  got = losses.ofa_target_weights(jnp.asarray(teacher), jnp.asarray(labels), exponent=1.3, temperature=2.0)
  np.testing.assert_allclose(got, weights, rtol=1e-10)
  options = {"exponent": 1.3, "temperature": 2.0}
  function = jax.jit(lambda z: losses.ofa_loss(z, jnp.asarray(teacher), jnp.asarray(labels), **options))
  np.testing.assert_allclose(
    function(jnp.asarray(student)), -4 * (weights * np.log(softmax(student / 2))).sum(-1), rtol=1e-9
  )
  check_grads(lambda z: jnp.sum(function(z)), (jnp.asarray(student),), order=1, modes=["rev"])


def test_ofa_invariances_and_labels():
  student, teacher, labels = case(4)
  student, teacher, labels = jnp.float32(student), jnp.float32(teacher), jnp.asarray(labels, jnp.int32)
  loss = jax.jit(losses.ofa_loss)
  np.testing.assert_allclose(loss(student, teacher, labels), losses.soft_cross_entropy(student, teacher), rtol=1e-5)
  base = loss(student, teacher, labels, exponent=1.5)
  np.testing.assert_allclose(loss(student + 5, teacher - 2, labels, exponent=1.5), base, rtol=1e-4)
  np.testing.assert_allclose(
    loss(student, teacher, 0.4 / 6 + 0.6 * jax.nn.one_hot(labels, 6), exponent=1.5), base, rtol=1e-5
  )
  own = jax.nn.one_hot(labels, 6, dtype=bool)
  plain, boosted = (losses.ofa_target_weights(teacher, labels, exponent=exponent) for exponent in (1.0, 2.0))
  assert bool(jnp.all(jnp.where(own, boosted >= plain, boosted <= plain)))
  certain = losses.ofa_target_weights(jnp.array([[-30.0, 0.0, 0.0]]), jnp.array([0]), exponent=1.0)
  np.testing.assert_allclose(certain[0, 0], np.exp(-30) / 2, rtol=1e-4)  # (1 + p) - 1 in float32 would be 0
  grad_s, grad_t = jax.grad(lambda s, t: jnp.sum(loss(s, t, jnp.array([6, -1, 0, 0]))), argnums=(0, 1))(
    student, teacher
  )
  assert not grad_s[:2].any() and grad_s[2:].any() and not grad_t.any()


Z, Y = jnp.zeros((2, 3)), jnp.zeros(2, int)


@pytest.mark.parametrize(
  "call, match",
  [
    (lambda: losses.dkd_loss(Z, Z[:, :2], Y), "dkd_loss: shapes must be equal"),
    (lambda: losses.dkd_loss(Z[:, :2], Z[:, :2], Y), "at least 3 classes"),
    (lambda: losses.dkd_loss(Z, Z, Y[:1]), "dkd_loss: labels must be integers"),
    (lambda: losses.dkd_loss(Z, Z, jnp.zeros(2)), "dkd_loss: labels must be integers"),
    (lambda: losses.dkd_loss(Z, Z, Y, temperature=0), "temperature must be > 0"),
    (lambda: losses.ofa_loss(Z, Z[:1], Y), "ofa_loss: shapes must be equal"),
    (lambda: losses.ofa_loss(Z, Z, Y, exponent=0.0), "ofa_loss: exponent must be > 0"),
    (lambda: losses.ofa_loss(Z, Z, Y, temperature=-1), "temperature must be > 0"),
    (lambda: losses.ofa_loss(Z, Z, jnp.zeros((2, 2))), "ofa_loss: labels must be integers"),
    (lambda: losses.ofa_target_weights(Z, Y, exponent=-1), "ofa_target_weights: exponent must be > 0"),
    (lambda: losses.ofa_target_weights(Z, Y[:1]), "labels must be integers"),
  ],
)
def test_wrong_arguments(call, match):
  with pytest.raises(ValueError, match=match) as caught:
    call()
  assert "\n" not in str(caught.value)
