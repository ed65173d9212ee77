"""Plackett-Luce losses against literal numbers, NumPy in float64 and their special cases."""

import itertools

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


def numpy_pld(student, teacher, labels, temperature):
  out = []
  for z, t, y in zip(student, teacher, labels, strict=True):
    order = [y, *sorted((c for c in range(len(z)) if c != y), key=lambda c: (-t[c], c))]
    belief = softmax(t / temperature)
    out.append(sum(belief[order[k]] * (np.log(np.exp(z[order[k:]]).sum()) - z[order[k]]) for k in range(len(z))))
  return np.array(out)


def case(seed, batch=4, classes=6):
  rng = np.random.default_rng(seed)
  return 2 * rng.normal(size=(batch, classes)), 2 * rng.normal(size=(batch, classes)), rng.integers(classes, size=batch)


def test_literal_numbers():
  student, teacher = jnp.float32(Z_S), jnp.float32(Z_T)
  order = losses.teacher_optimal_permutation(teacher, jnp.array([0]))
  assert order.dtype == jnp.int32
  np.testing.assert_array_equal(order, [[0, 2, 1]])
  np.testing.assert_allclose(losses.pld_loss(student, teacher, jnp.array([0])), [0.77469897], rtol=1e-5)
  np.testing.assert_allclose(losses.plackett_luce_nll(student, order, jnp.ones(3)), [1.4831077], rtol=1e-5)  # ListMLE


def test_equals_numpy_and_finite_differences(x64):
  student, teacher, labels = case(0)
  function = jax.jit(lambda z: losses.pld_loss(z, jnp.asarray(teacher), jnp.asarray(labels), temperature=1.5))
  np.testing.assert_allclose(function(jnp.asarray(student)), numpy_pld(student, teacher, labels, 1.5), rtol=1e-10)
  check_grads(lambda z: jnp.sum(function(z)), (jnp.asarray(student),), order=1, modes=["rev"])


def test_gradient_is_a_weighted_sum_of_suffix_softmaxes(x64):
  student, teacher, labels = case(1, batch=1)
  got = jax.grad(lambda z: losses.pld_loss(z, jnp.asarray(teacher), jnp.asarray(labels))[0])(jnp.asarray(student))
  order = np.asarray(losses.teacher_optimal_permutation(jnp.asarray(teacher), jnp.asarray(labels)))[0]
  want = np.zeros(6)
  for k in range(6):
    left = order[k:]
    want[left] += softmax(teacher[0])[order[k]] * softmax(student[0, left])
    want[order[k]] -= softmax(teacher[0])[order[k]]
  np.testing.assert_allclose(got[0], want, rtol=1e-8, atol=1e-12)


def test_permutation_with_ties_and_infinite_teacher_logits():
  teacher = jnp.array([[1.0, 2.0, 2.0, 0.0], [jnp.inf, 0.0, 1.0, -jnp.inf], [1.0, 2.0, 2.0, 0.0]], jnp.float32)
  got = losses.teacher_optimal_permutation(teacher, jnp.array([3, 3, -1]))
  np.testing.assert_array_equal(got, [[3, 1, 2, 0], [3, 0, 2, 1], [1, 2, 0, 3]])


def test_special_cases():
  student, teacher, labels = (jnp.asarray(x) for x in case(2))
  student, labels = student.astype(jnp.float32), labels.astype(jnp.int32)
  order = losses.teacher_optimal_permutation(teacher, labels)
  nll = jax.jit(losses.plackett_luce_nll)
  first = jnp.zeros(6).at[0].set(1)
  np.testing.assert_allclose(nll(student, order, first), losses.cross_entropy(student, labels), rtol=1e-5)
  list_mle = nll(student, order, jnp.ones(6))
  np.testing.assert_allclose(nll(student, order, jnp.full((4, 6), 1 / 6)), list_mle / 6, rtol=1e-5)
  uniform = losses.pld_loss(student, jnp.zeros((4, 6)), labels)
  np.testing.assert_allclose(
    uniform, nll(student, jnp.argsort(~jax.nn.one_hot(labels, 6, dtype=bool)), jnp.ones(6)) / 6, rtol=1e-6
  )
  sharp = losses.pld_loss(student, 1e4 * jax.nn.one_hot(labels, 6), labels)  # a teacher certain of the label
  np.testing.assert_allclose(sharp, losses.cross_entropy(student, labels), rtol=1e-5)


def test_likelihoods_of_all_orders_sum_to_one():
  orders = jnp.array(list(itertools.permutations(range(4))), jnp.int32)
  logits = jnp.broadcast_to(jnp.array([[1.0, -2.0, 0.5, 3.0]]), orders.shape)
  np.testing.assert_allclose(jnp.sum(jnp.exp(-losses.plackett_luce_nll(logits, orders, jnp.ones(4)))), 1, rtol=1e-5)


def test_invariances():
  student, teacher, labels = case(3)
  student, teacher, labels = jnp.float32(student), jnp.float32(teacher), jnp.asarray(labels, jnp.int32)
  loss = jax.jit(losses.pld_loss)
  base = loss(student, teacher, labels)
  np.testing.assert_allclose(loss(student + 5, teacher - 2, labels), base, rtol=1e-4)
  np.testing.assert_allclose(loss(student[:, ::-1], teacher[:, ::-1], 5 - labels), base, rtol=1e-5)
  alone = loss(student[:1], teacher[:1], labels[:1])
  np.testing.assert_allclose(alone, base[:1], rtol=1e-6)  # per example
  grad_s, grad_t = jax.grad(lambda s, t: jnp.sum(loss(s, t, labels)), argnums=(0, 1))(student, teacher)
  assert grad_s.any() and not grad_t.any()
  weights = jax.grad(lambda w: jnp.sum(losses.plackett_luce_nll(student, jnp.argsort(teacher), w)))(jnp.ones(6))
  assert not weights.any()


def test_labels_outside_the_classes_and_nan():
  student, teacher, _ = case(4, batch=3)
  student, teacher = jnp.float32(student), jnp.float32(teacher).at[2, 1].set(jnp.nan)
  value, gradient = jax.value_and_grad(
    lambda z: (lambda loss: (jnp.sum(loss[:2]), loss))(losses.pld_loss(z, teacher, jnp.array([6, -1, 0]))),
    has_aux=True,
  )(student)
  np.testing.assert_array_equal(value[1][:2], [0, 0])
  assert not gradient[:2].any()
  assert bool(jnp.isnan(value[1][2]))  # the sort hides a NaN of the teacher, the weights do not


def test_finite_in_bfloat16_and_at_extreme_logits():
  z = jnp.array([[1e4, -1e4, 0.0, 3.0]], jnp.bfloat16)
  value, gradient = jax.value_and_grad(lambda z: jnp.sum(losses.pld_loss(z, -z, jnp.array([2]))))(z)
  assert value.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
  assert bool(jnp.isfinite(value)) and bool(jnp.all(jnp.isfinite(gradient)))
  # exp, sum, log would lose the small ones: the last steps are 0 - (-90), -90 - (-100)
  nll = losses.plackett_luce_nll(jnp.array([[-100.0, -90.0, 0.0]]), jnp.array([[0, 1, 2]]), jnp.ones(3))
  np.testing.assert_allclose(nll, [190.0], rtol=1e-6)


Z, Y = jnp.zeros((2, 3)), jnp.zeros(2, int)


@pytest.mark.parametrize(
  "call, match",
  [
    (lambda: losses.pld_loss(Z, Z[:, :2], Y), "pld_loss: shapes must be equal"),
    (lambda: losses.pld_loss(Z, Z, Z), "pld_loss: labels must be integers"),
    (lambda: losses.pld_loss(Z, Z, Y[:1]), "pld_loss: labels must be integers"),
    (lambda: losses.pld_loss(Z[:, :1], Z[:, :1], Y), "at least 2 classes"),
    (lambda: losses.pld_loss(Z, Z, Y, temperature=0.0), "temperature must be > 0"),
    (lambda: losses.teacher_optimal_permutation(Z, Z), "teacher_optimal_permutation: labels must be integers"),
    (lambda: losses.plackett_luce_nll(Z, jnp.zeros((2, 2), int), Z), "shapes must be equal"),
    (lambda: losses.plackett_luce_nll(Z, Z, Z), "permutation must be of integers"),
    (lambda: losses.plackett_luce_nll(Z, Z.astype(int), jnp.ones(2)), r"weights \(2,\) must be"),
  ],
)
def test_wrong_arguments(call, match):
  with pytest.raises(ValueError, match=match) as caught:
    call()
  assert "\n" not in str(caught.value)
