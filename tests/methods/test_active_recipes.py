"""Recipes of rounds of queries against NumPy: who learns from labels, who from the teacher, what is predicted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from jdistill.base import Batch, Outputs
from jdistill.methods.knowledge import StepOutputs
from jdistill.methods.knowledge.active import activekd, activekd_loss, rad, second_head
from jdistill.methods.knowledge.objective import weighted_mean

RNG = np.random.default_rng(0)
CE, KD, TEACHER, H = (RNG.normal(size=(6, n)) * 2 for n in (4, 4, 4, 3))
Y = np.array([2, -1, 0, -1, -1, 3])
KNOWN = Y >= 0
WHERE = np.array([True] * 5 + [False])  # the last is padding


def step(**changes):
  outputs = [Outputs(jnp.float32(z), jnp.float32(H)) for z in (CE, TEACHER)]
  batch = Batch(jnp.float32(H), jnp.int32(Y), jnp.arange(6, dtype=jnp.int32), jnp.float32(WHERE))
  found = StepOutputs(
    batch, outputs[0], (outputs[1],), {"kd_head": jnp.float32(KD)}, {}, (), (), jnp.asarray(WHERE), jnp.float32(0),
    jax.random.key(0), jnp.arange(6, dtype=jnp.int32),
  )  # fmt: skip
  return found._replace(**changes)


def total(recipe, found=None):
  found = found or step()
  out = 0.0
  for term in recipe.terms.values():
    value = term.value(found)
    out += term.weight * float(weighted_mean(value, found.batch.weight) if jnp.ndim(value) else value)
  return out


def cross_entropy(z, y):
  return -log_softmax(z, axis=1)[np.arange(len(y)), np.maximum(y, 0)]


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_rad_takes_the_label_or_the_answer(temperature):
  soft = -(softmax(TEACHER / temperature, axis=1) * log_softmax(CE, axis=1)).sum(1)
  want = np.where(KNOWN, cross_entropy(CE, Y), soft)[WHERE].mean()
  assert total(rad(temperature=temperature)) == pytest.approx(want, rel=1e-5)


def divergence(t):
  p, log_q = softmax(TEACHER / t, axis=1), log_softmax(KD / t, axis=1)
  return t**2 * (p * (log_softmax(TEACHER / t, axis=1) - log_q)).sum(1)


def test_activekd_means_over_labelled_and_unlabelled_examples():
  """`0.5 CE + 0.5 (KD over labelled + KD over unlabelled)`, each a mean over its own examples."""
  kd, labelled, others = divergence(2.0), KNOWN & WHERE, ~KNOWN & WHERE
  want = 0.5 * cross_entropy(CE, Y)[labelled].mean() + 0.5 * (kd[labelled].mean() + kd[others].mean())
  assert total(activekd()) == pytest.approx(want, rel=1e-5)
  want = 0.2 * cross_entropy(CE, Y)[labelled].mean() + 0.7 * (kd[labelled].mean() + kd[others].mean())
  assert total(activekd(ce_weight=0.2, kd_weight=0.7)) == pytest.approx(want, rel=1e-5)


def test_the_loss_of_each_example():
  args = (jnp.float32(z) for z in (CE, KD, TEACHER))
  want = 0.5 * np.where(KNOWN, cross_entropy(CE, Y), 0) + 0.5 * divergence(2.0)
  np.testing.assert_allclose(activekd_loss(*args, jnp.int32(Y)), want, rtol=1e-5)


def test_no_gradient_reaches_the_teacher_and_labels_train_one_head_alone():
  y = jnp.int32(Y)
  grads = jax.grad(lambda a, b, t: activekd_loss(a, b, t, y).sum(), argnums=(0, 1, 2))(
    *(jnp.float32(z) for z in (CE, KD, TEACHER))
  )
  assert not np.any(grads[2]) and not np.any(grads[0][~KNOWN]) and np.all(np.any(grads[1], axis=1))


def test_predictions_mix_both_heads():
  head = second_head()
  student = Outputs(jnp.float32(CE), jnp.float32(H))
  variables = head.init(jax.random.key(1), student, ())
  z_kd, _ = head.apply(variables, student, (), train=False, key=jax.random.key(0))
  assert z_kd.shape == CE.shape
  logits = activekd(alpha=0.3, beta=2.0).predict(student, {"kd_head": variables}, ())
  want = 0.3 * softmax(CE, axis=1) + 0.7 * softmax(np.float64(z_kd) / 2, axis=1)
  np.testing.assert_allclose(softmax(np.float64(logits), axis=1), want, rtol=1e-5)


def test_a_teacher_of_other_classes_is_refused():
  other = Outputs(jnp.float32(TEACHER[:, :3]), jnp.float32(H))
  for recipe in (rad(), activekd()):
    with pytest.raises(ValueError, match=r"\(6, 4\).*\(6, 3\)"):
      total(recipe, step(teachers=(other,)))
