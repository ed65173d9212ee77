"""Losses against literal numbers and NumPy in float64."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jdistill import losses

LOGITS = np.array([[2.0, 0.0, -1.0], [0.5, 0.5, 0.5]])
LABELS = np.array([[0.0, np.log(2.0), np.log(4.0)], [0.0, 0.0, 0.0]])


def numpy_log_softmax(z):
  z = z - z.max(-1, keepdims=True)
  return z - np.log(np.exp(z).sum(-1, keepdims=True))


class SoftCrossEntropyTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_literal_numbers(self):
    # targets (1/7, 2/7, 4/7) and uniform; log-softmax of (2, 0, -1) is (-0.169846, -2.169846, -3.169846)
    got = self.variant(losses.soft_cross_entropy)(jnp.float32(LOGITS), jnp.float32(LABELS))
    np.testing.assert_allclose(got, [2.4555604, np.log(3.0)], rtol=1e-5)


def test_soft_cross_entropy_equals_numpy_with_temperature(x64):
  probs = np.exp(numpy_log_softmax(LABELS / 3.0))
  want = -(probs * numpy_log_softmax(LOGITS / 3.0)).sum(-1)
  got = losses.soft_cross_entropy(jnp.asarray(LOGITS), jnp.asarray(LABELS), temperature=3.0, scale_t2=False)
  np.testing.assert_allclose(got, want, rtol=1e-12)
  check_grads(losses.soft_cross_entropy, (jnp.asarray(LOGITS), jnp.asarray(LABELS)), order=2)


def test_soft_cross_entropy_invariances():
  z, y = jnp.float32(LOGITS), jnp.float32(LABELS)
  base = losses.soft_cross_entropy(z, y)
  np.testing.assert_allclose(losses.soft_cross_entropy(z + 7, y - 3), base, rtol=1e-5)  # logits have no origin
  np.testing.assert_allclose(losses.soft_cross_entropy(z[:, ::-1], y[:, ::-1]), base, rtol=1e-6)
  np.testing.assert_allclose(losses.soft_cross_entropy(z.T, y.T, axis=0), base, rtol=1e-6)
  sharp = losses.soft_cross_entropy(z, 1e4 * jax.nn.one_hot(jnp.array([1, 2]), 3))
  np.testing.assert_allclose(sharp, losses.cross_entropy(z, jnp.array([1, 2])), rtol=1e-6)


def test_finite_in_bfloat16_and_at_extreme_logits():
  z = jnp.array([[3e4, -3e4, 0.0]], jnp.bfloat16)
  for values in (losses.soft_cross_entropy(z, -z), jax.grad(lambda z: losses.soft_cross_entropy(z, -z).sum())(z)):
    assert bool(jnp.all(jnp.isfinite(values)))


def test_cross_entropy_equals_numpy(x64):
  labels = np.array([2, 0])
  want = -numpy_log_softmax(LOGITS)[np.arange(2), labels]
  np.testing.assert_allclose(losses.cross_entropy(jnp.asarray(LOGITS), jnp.asarray(labels)), want, rtol=1e-12)


def test_trajectory_matching_values():
  start, target = {"a": jnp.array([0.0, 0.0]), "b": jnp.array(1.0)}, {"a": jnp.array([3.0, 4.0]), "b": jnp.array(1.0)}
  student = {"a": jnp.array([3.0, 0.0]), "b": jnp.array(2.0)}
  np.testing.assert_allclose(losses.trajectory_matching(student, target, start), 17 / 25)
  assert losses.trajectory_matching(start, target, start) == 1.0
  assert losses.trajectory_matching(target, target, start) == 0.0


def test_trajectory_matching_gives_no_gradient_to_the_expert():
  args = (jnp.array([1.0, 2.0]), jnp.array([2.0, 2.0]), jnp.array([0.0, 1.0]))
  student, target, start = jax.grad(losses.trajectory_matching, argnums=(0, 1, 2))(*args)
  np.testing.assert_allclose(student, [2 * (1 - 2) / 5, 0.0])
  assert not target.any() and not start.any()


@pytest.mark.parametrize(
  "call, match",
  [
    (lambda: losses.soft_cross_entropy(jnp.zeros((2, 3)), jnp.zeros(2, int)), "for integer labels use cross_entropy"),
    (lambda: losses.soft_cross_entropy(jnp.zeros((2, 3)), jnp.zeros((2, 3)), temperature=0), "temperature must be > 0"),
    (lambda: losses.cross_entropy(jnp.zeros((2, 3)), jnp.zeros((2, 3))), "must be integers"),
    (lambda: losses.trajectory_matching(jnp.zeros(2), jnp.zeros(3), jnp.zeros(2)), "differ in shape"),
  ],
)
def test_wrong_arguments(call, match):
  with pytest.raises(ValueError, match=match):
    call()
