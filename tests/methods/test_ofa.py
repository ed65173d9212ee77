"""OFA-KD: every term against NumPy in float64, where its gradients go, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import models
from jdistill.base import Batch, Outputs, UserError
from jdistill.methods.knowledge import StepOutputs
from jdistill.methods.knowledge.ofa import ofa

RNG = np.random.default_rng(5)
STUDENT, TEACHER, EXIT = (RNG.normal(size=(6, 4)) * size for size in (1, 2, 1))
LABELS = np.array([0, 3, 1, 1, 2, 0])


def log_softmax(z):
  return z - z.max(-1, keepdims=True) - np.log(np.exp(z - z.max(-1, keepdims=True)).sum(-1, keepdims=True))


def ofa_loss(z, eps, temperature=1.0):
  """As printed: the target is `(p + m)^eps - m`."""
  mask = np.eye(4)[LABELS]
  weights = (np.exp(log_softmax(TEACHER / temperature)) + mask) ** eps - mask
  return -(weights * log_softmax(z / temperature)).sum(-1).mean()


def view(student=STUDENT, exits=()):
  batch = Batch(jnp.zeros((6, 1)), jnp.int32(LABELS), jnp.arange(6, dtype=jnp.int32))
  outs = [Outputs(jnp.float32(z), jnp.zeros((6, 2))) for z in (student, TEACHER)]
  parts = {name: jnp.float32(EXIT + k) * (k + 1) for k, name in enumerate(exits)}
  where = jnp.ones(6, bool)
  return StepOutputs(
    batch, outs[0], (outs[1],), parts, {}, (), (), where, jnp.float32(0), jax.random.key(0), jnp.arange(6)
  )


def values(recipe):
  seen = view(exits=recipe.connectors)
  return {name: float(jnp.mean(term.value(seen))) for name, term in recipe.terms.items()}


def test_every_stage_and_the_final_logits_have_an_exponent_of_their_own():
  eps = (1.0, 1.1, 1.2, 1.3, 1.5)
  found = values(ofa(exponent=eps, temperature=2.0))
  assert set(found) == {"ce", "kd", "exits"}
  assert found["ce"] == pytest.approx(-log_softmax(STUDENT)[np.arange(6), LABELS].mean(), rel=1e-5)
  assert found["kd"] == pytest.approx(ofa_loss(STUDENT, 1.5, 2.0), rel=1e-4)
  want = sum(ofa_loss((EXIT + k) * (k + 1), eps[k], 2.0) for k in range(4))
  assert found["exits"] == pytest.approx(want, rel=1e-4)


def test_the_temperature_may_be_made_up_for():
  found = values(ofa(temperature=2.0, exponent=1.2, stages="1", scale_t2=True))
  assert found["kd"] == pytest.approx(4 * ofa_loss(STUDENT, 1.2, 2.0), rel=1e-4)
  assert found["exits"] == pytest.approx(4 * ofa_loss(EXIT, 1.2, 2.0), rel=1e-4)


def test_one_exponent_is_meant_for_all_and_one_is_cross_entropy_with_the_teacher():
  found = values(ofa(stages="block1"))
  assert found["kd"] == pytest.approx(-(np.exp(log_softmax(TEACHER)) * log_softmax(STUDENT)).sum(-1).mean(), rel=1e-5)
  assert found["exits"] == pytest.approx(ofa_loss(EXIT, 1.0), rel=1e-5)


def test_exits_may_learn_labels_alone():
  recipe = ofa(targets="labels", kd_weight=0.0, stages="1, 4", exit_weight=0.5)
  found = values(recipe)
  assert set(found) == {"ce", "exits"}
  want = -sum(log_softmax((EXIT + k) * (k + 1))[np.arange(6), LABELS].mean() for k in range(2))
  assert found["exits"] == pytest.approx(want, rel=1e-5)
  assert recipe.terms["exits"].weight == 0.5
  assert list(recipe.connectors) == ["exit1", "exit4"]


def test_exits_move_the_stages_below_them_and_nothing_above():
  """Two hidden layers: the exit of the first reaches its own weights and the first layer's, not the second's."""
  network = models.build("mlp", num_classes=4, image_shape=(2, 2, 1), widths=(5, 6))
  variables = network.init(jax.random.key(0))
  recipe = ofa(stages="block0", ce_weight=0.0, kd_weight=0.0)
  x = jnp.float32(RNG.normal(size=(6, 2, 2, 1)))
  part, teachers = recipe.connectors["exitblock0"], view().teachers
  own = part.init(jax.random.key(1), network.apply(variables.params, x), teachers)

  def loss(params, exit_params):
    student = network.apply(params, x)
    value, _ = part.apply(own._replace(params=exit_params), student, teachers, train=True, key=jax.random.key(2))
    return jnp.mean(recipe.terms["exits"].value(view()._replace(student=student, connectors={"exitblock0": value})))

  grads, exit_grads = jax.grad(loss, argnums=(0, 1))(variables.params, own.params)
  reached = {name for name, leaves in grads.items() if any(float(jnp.abs(leaf).max()) > 0 for leaf in leaves.values())}
  assert reached == {"dense0"}
  assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(exit_grads))
  assert recipe.keeps == ()


@pytest.mark.parametrize(
  ("options", "complaint"),
  [
    ({"exponent": (1.0, 1.2)}, r"method.exponent=\(1.0, 1.2\): give one value, or 5"),
    ({"exponent": 0.0}, "method.exponent=0.0: must be above 0"),
    ({"exponent": (1.0, -1.0), "stages": "4"}, "must be above 0"),
    ({"stages": ""}, "method.stages='': name every stage once"),
    ({"stages": "1,1"}, "name every stage once"),
    ({"targets": "both"}, "method.targets='both': unknown; choose one of labels, teacher"),
  ],
)
def test_what_the_recipe_refuses(options, complaint):
  with pytest.raises(UserError, match=complaint):
    ofa(**options)
