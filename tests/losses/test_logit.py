"""Divergences between distributions over classes against literal numbers and NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jdistill import losses
from jdistill.losses._checks import check_temperature, masked_mean
from jdistill.ops.checks import check_rank, check_same_shape

STUDENT = np.array([[2.0, 0.0, -1.0], [0.5, 0.5, 0.5]])
TEACHER = np.array([[0.0, np.log(2.0), np.log(4.0)], [0.0, 0.0, 0.0]])  # (1/7, 2/7, 4/7) and uniform
LABELS = np.array([1, 2])
DIVERGENCES = ("kl_divergence", "reverse_kl", "jeffreys_divergence", "js_divergence")


def softmax(z, temperature=1.0):
  e = np.exp((z - z.max(-1, keepdims=True)) / temperature)
  return e / e.sum(-1, keepdims=True)


def numpy_kl(p, q):
  return (p * np.log(p / q)).sum(-1)


def numpy_divergence(name, student, teacher, temperature):
  s, t = softmax(student, temperature), softmax(teacher, temperature)
  m = (s + t) / 2
  return {
    "kl_divergence": numpy_kl(t, s),
    "reverse_kl": numpy_kl(s, t),
    "jeffreys_divergence": (numpy_kl(t, s) + numpy_kl(s, t)) / 2,
    "js_divergence": (numpy_kl(t, m) + numpy_kl(s, m)) / 2,
  }[name]


def noise(seed, *shape, scale=2.0):
  return scale * np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize(
  "name, value",
  list(zip(DIVERGENCES, [1.4998604, 1.2842511, 1.3920558, 0.29294125], strict=True)),
)
def test_literal_numbers(name, value):
  got = getattr(losses, name)(jnp.float32(STUDENT), jnp.float32(TEACHER))
  np.testing.assert_allclose(got, [value, 0.0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_equals_numpy_and_finite_differences(x64, name):
  student, teacher = noise(0, 2, 3, 5), noise(1, 2, 3, 5)  # [B, L, classes]
  function = getattr(losses, name)
  want = numpy_divergence(name, student, teacher, 3.0)
  got = function(jnp.asarray(student), jnp.asarray(teacher), temperature=3.0)
  np.testing.assert_allclose(got, 9 * want, rtol=1e-10)
  plain = function(jnp.asarray(student), jnp.asarray(teacher), temperature=3.0, scale_t2=False)
  np.testing.assert_allclose(plain, want, rtol=1e-10)
  loss = jax.jit(lambda z: jnp.sum(function(z, jnp.asarray(teacher), temperature=3.0)))
  check_grads(loss, (jnp.asarray(student),), order=1, modes=["rev"])


@pytest.mark.parametrize("name", DIVERGENCES)
def test_invariances_and_gradients_of_both_sides(name):
  function = jax.jit(getattr(losses, name))
  student, teacher = jnp.float32(noise(2, 3, 5)), jnp.float32(noise(3, 3, 5))
  base = function(student, teacher)
  assert base.shape == (3,) and bool(jnp.all(base > 0))
  np.testing.assert_allclose(function(student + 7, teacher - 3), base, rtol=1e-4)
  np.testing.assert_allclose(function(student[:, ::-1], teacher[:, ::-1]), base, rtol=1e-5)
  both = jax.jit(jax.grad(lambda s, t: jnp.sum(function(s, t)), argnums=(0, 1)))
  grad_s, grad_t = both(student, teacher)
  assert bool(jnp.any(grad_s != 0)) and not grad_t.any()
  np.testing.assert_allclose(jnp.sum(grad_s, axis=1), np.zeros(3), atol=1e-6)  # as a constant changes nothing
  # exactly, but for the logarithm of the mean in Jensen-Shannon
  np.testing.assert_allclose(function(student, student), np.zeros(3), atol=1e-7 if name == "js_divergence" else 0)
  np.testing.assert_allclose(both(student, student)[0], np.zeros((3, 5)), atol=1e-6)


def test_directions_and_symmetry():
  student, teacher = jnp.float32(noise(4, 3, 5)), jnp.float32(noise(5, 3, 5))
  np.testing.assert_allclose(losses.reverse_kl(student, teacher), losses.kl_divergence(teacher, student), rtol=1e-6)
  for function in (losses.jeffreys_divergence, losses.js_divergence):
    np.testing.assert_allclose(function(student, teacher), function(teacher, student), rtol=1e-5)
  far = jnp.float32([[50.0, 0.0, 0.0]])
  np.testing.assert_allclose(losses.js_divergence(far, far[:, ::-1]), [np.log(2.0)], rtol=1e-6)  # its bound


def test_gradient_of_kd_and_its_limit_at_high_temperature(x64):
  student, teacher = noise(6, 2, 4), noise(7, 2, 4)

  @jax.jit
  def gradient(temperature):
    def loss(z):
      return jnp.sum(losses.kl_divergence(z, jnp.asarray(teacher), temperature=temperature))

    return jax.grad(loss)(jnp.asarray(student))

  np.testing.assert_allclose(gradient(4.0), 4 * (softmax(student, 4.0) - softmax(teacher, 4.0)), rtol=1e-8)
  centred = [z - z.mean(-1, keepdims=True) for z in (student, teacher)]
  np.testing.assert_allclose(gradient(1e5), (centred[0] - centred[1]) / 4, rtol=1e-3)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_finite_in_bfloat16_at_extreme_and_at_infinite_logits(name):
  function = getattr(losses, name)
  both = jax.jit(jax.value_and_grad(lambda s, t: jnp.sum(function(s, t))))
  z = jnp.array([[1e4, -1e4, 0.0, 3.0]], jnp.bfloat16)
  value, gradient = both(z, -z)
  assert value.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
  assert bool(jnp.isfinite(value)) and bool(jnp.all(jnp.isfinite(gradient)))
  # a class that both sides exclude is as good as absent
  student, teacher = jnp.float32(noise(8, 1, 4)), jnp.float32(noise(9, 1, 4))
  kept = jnp.array([[True, False, True, True]])
  value, gradient = both(jnp.where(kept, student, -jnp.inf), jnp.where(kept, teacher, -jnp.inf))
  picked = jnp.array([0, 2, 3])
  np.testing.assert_allclose(value, jnp.sum(function(student[:, picked], teacher[:, picked])), rtol=1e-5)
  assert bool(jnp.all(jnp.isfinite(gradient)))
  assert bool(jnp.isnan(both(student, teacher.at[0, 0].set(jnp.nan))[0]))  # what is broken stays visible


def test_kd_loss_adds_labels_and_teacher():
  student, teacher, labels = jnp.float32(STUDENT), jnp.float32(TEACHER), jnp.asarray(LABELS, jnp.int32)
  got = losses.kd_loss(student, teacher, labels, temperature=1.0, ce_weight=0.5, kd_weight=2.0)
  np.testing.assert_allclose(got, [0.5 * 2.169846 + 2 * 1.4998604, 0.5 * np.log(3.0)], rtol=1e-5)
  default = 0.1 * losses.cross_entropy(student, labels) + 0.9 * losses.kl_divergence(student, teacher, temperature=4.0)
  np.testing.assert_allclose(losses.kd_loss(student, teacher, labels), default, rtol=1e-6)
  unlabelled = losses.kd_loss(student, teacher, jnp.array([-1, 2]), temperature=1.0)
  np.testing.assert_allclose(unlabelled[0], 0.9 * 1.4998604, rtol=1e-5)
  assert losses.kd_loss(student.astype(jnp.bfloat16), teacher, labels).dtype == jnp.float32


def test_ensemble_soft_targets():
  first, second = jnp.float32(TEACHER), jnp.float32(STUDENT)
  probs, logits = losses.ensemble_soft_targets([first, second])
  np.testing.assert_allclose(probs, (softmax(TEACHER) + softmax(STUDENT)) / 2, rtol=1e-5)
  np.testing.assert_allclose(logits, (TEACHER + STUDENT) / 2, rtol=1e-6)
  probs, logits = losses.ensemble_soft_targets(jnp.stack([first, second]), weights=[3, 1], temperature=2.0)
  np.testing.assert_allclose(probs, 0.75 * softmax(TEACHER, 2.0) + 0.25 * softmax(STUDENT, 2.0), rtol=1e-5)
  np.testing.assert_allclose(logits, 0.75 * TEACHER + 0.25 * STUDENT, rtol=1e-6, atol=1e-7)
  got = losses.soft_cross_entropy(second, jnp.log(losses.ensemble_soft_targets([first])[0]))
  np.testing.assert_allclose(got, losses.soft_cross_entropy(second, first), rtol=1e-6)
  teacher_gradient = jax.grad(lambda z: sum(jnp.sum(x**2) for x in losses.ensemble_soft_targets([z])))(first)
  assert not teacher_gradient.any()


def test_masked_mean():
  values = jnp.array([[1.0, 2.0], [3.0, jnp.nan]])
  assert masked_mean(values[0], None) == 1.5
  assert masked_mean(values, jnp.array([True, False])) == 1.5
  where = jnp.array([[True, True], [True, False]])
  assert masked_mean(values, where) == 2.0
  assert masked_mean(values, jnp.zeros(2)) == 0.0
  np.testing.assert_allclose(jax.grad(masked_mean)(values, where), np.array([[1, 1], [1, 0]]) / 3, rtol=1e-6)
  with pytest.raises(ValueError, match="leading part"):
    masked_mean(values, jnp.ones(3))


def test_temperature_may_be_traced_and_is_checked_otherwise():
  z = jnp.float32(STUDENT)
  got = jax.jit(lambda t: losses.kl_divergence(z, -z, temperature=t))(2.0)
  np.testing.assert_allclose(got, losses.kl_divergence(z, -z, temperature=2.0), rtol=1e-6)
  jax.jit(lambda z: losses.kl_divergence(z, z, temperature=jnp.float32(2.0)))(z)  # known while tracing
  for bad in (0, -1.0, float("nan"), jnp.float32(0)):
    with pytest.raises(ValueError, match="f: temperature must be > 0"):
      check_temperature("f", bad)


Z = jnp.zeros((2, 3))


@pytest.mark.parametrize(
  "call, match",
  [
    *[
      (lambda n=n: getattr(losses, n)(Z, Z[:, :2]), rf"{n}: shapes must be equal, got student_logits \(2, 3\)")
      for n in DIVERGENCES
    ],
    *[(lambda n=n: getattr(losses, n)(Z, Z, temperature=0), f"{n}: temperature must be > 0") for n in DIVERGENCES],
    (lambda: losses.kl_divergence(Z[0, 0], Z[0, 0]), "at least 1 classes"),
    (lambda: losses.kd_loss(Z, Z, Z), r"kd_loss: labels must be integers of shape \(2,\)"),
    (lambda: losses.kd_loss(Z, Z, jnp.zeros(3, int)), "labels must be integers"),
    (lambda: losses.ensemble_soft_targets([]), "at least one teacher"),
    (lambda: losses.ensemble_soft_targets([Z, Z[:, :2]]), r"teacher_logits\[1\] \(2, 2\)"),
    (lambda: losses.ensemble_soft_targets([Z], weights=[1, 1]), "weights must be 1 non-negative"),
    (lambda: losses.ensemble_soft_targets([Z, Z], weights=[1, -1]), "weights must be 2 non-negative"),
    (lambda: losses.ensemble_soft_targets([Z], temperature=-1), "temperature must be > 0"),
    (lambda: check_rank("f", "x", Z, 3), r"f: x must have 3 axes, got shape \(2, 3\)"),
    (lambda: check_same_shape("f", x=Z, y=Z[0]), r"f: shapes must be equal, got x \(2, 3\), y \(3,\)"),
  ],
)
def test_wrong_arguments(call, match):
  with pytest.raises(ValueError, match=match) as caught:
    call()
  assert "\n" not in str(caught.value)
