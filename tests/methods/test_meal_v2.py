"""MEAL V2: similarity and discriminator terms on a hand-made view, in NumPy float64, and whom their gradients reach."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from updates import update_of

from jdistill import models
from jdistill.base import Batch, Outputs, UserError
from jdistill.methods.knowledge import StepOutputs, student_method
from jdistill.methods.knowledge.meal_v2 import discriminator_widths, meal_v2
from jdistill.methods.optimizers import make_optimizer
from jdistill.teachers.frozen import ask, committee

RNG = np.random.default_rng(6)
STUDENT, TEACHERS = RNG.normal(size=(4, 5)), 2 * RNG.normal(size=(3, 4, 5))
LABELS = np.array([0, 4, 1, 2])


def log_softmax(z):
  z = z - z.max(-1, keepdims=True)
  return z - np.log(np.exp(z).sum(-1, keepdims=True))


def outputs(z):
  return Outputs(jnp.asarray(z, jnp.float32), jnp.zeros((len(z), 2)))


def view(params=None, student=STUDENT, teachers=TEACHERS, where=(True,) * 4):
  batch = Batch(jnp.zeros((4, 1)), jnp.int32(LABELS), jnp.arange(4, dtype=jnp.int32))
  return StepOutputs(
    batch=batch, student=outputs(student), teachers=tuple(outputs(z) for z in teachers), connectors={},
    params={"discriminator": params}, memory=(), constants=(), where=jnp.array(where), epoch=jnp.float32(0),
    key=jax.random.key(0), rows=batch.ids,
  )  # fmt: skip


def drawn(recipe, key=7):
  """Parameters whose ReLUs are not all shut."""
  part = recipe.connectors["discriminator"]
  params = part.init(jax.random.key(key), outputs(STUDENT), tuple(outputs(z) for z in TEACHERS)).params
  return jax.tree.map(lambda a: a + 0.3, params)


def np_scores(params, z, last_relu):
  names = sorted(params)
  for number, name in enumerate(names):
    z = z @ np.float64(params[name]["kernel"]) + np.float64(params[name]["bias"])
    if last_relu or number < len(names) - 1:
      z = np.maximum(z, 0)
  return z


def np_discriminator(params, student, teacher, last_relu=True):
  costs = [
    np.logaddexp(0, scores) - np.array(target) * scores
    for scores, target in (
      (np_scores(params, student, last_relu), (1, 0)), (np_scores(params, teacher, last_relu), (0, 1)),
    )
  ]  # fmt: skip
  return np.mean(costs)


def test_similarity_is_the_cross_entropy_with_the_average_probabilities():
  recipe = meal_v2(mode="off")
  pbar = np.exp(log_softmax(TEACHERS)).mean(0)
  want = -(pbar * log_softmax(STUDENT)).sum(-1)
  np.testing.assert_allclose(recipe.terms["similarity"].value(view()), want, rtol=1e-5)
  logits = np.exp(log_softmax(TEACHERS.mean(0)))  # averaging logits is something else
  assert np.abs(-(logits * log_softmax(STUDENT)).sum(-1) - want).max() > 0.05
  assert set(recipe.terms) == {"similarity"} and not recipe.connectors and recipe.needs == ("teacher",)


def test_one_teacher_is_the_control():
  want = -(np.exp(log_softmax(TEACHERS[0])) * log_softmax(STUDENT)).sum(-1)
  np.testing.assert_allclose(meal_v2().terms["similarity"].value(view(teachers=TEACHERS[:1])), want, rtol=1e-5)


def test_hard_labels_take_their_share():
  recipe = meal_v2(mode="off", hard_weight=0.25)
  assert [term.weight for term in recipe.terms.values()] == [0.75, 0.25] and "labels" in recipe.needs
  np.testing.assert_allclose(recipe.terms["ce"].value(view()), -log_softmax(STUDENT)[np.arange(4), LABELS], rtol=1e-5)


@pytest.mark.parametrize("last_relu", [True, False])
def test_the_discriminator_tells_the_student_from_the_mean_of_the_logits(last_relu):
  recipe = meal_v2(last_relu=last_relu)
  params = drawn(recipe)
  assert [params[name]["kernel"].shape for name in sorted(params)] == [
    (5, 2),
    (2, 2),
    (2, 2),
  ]  # C/8 and C/64: at least 2
  want = np_discriminator(params, STUDENT, TEACHERS.mean(0), last_relu)
  assert float(recipe.terms["discriminator"].value(view(params))) == pytest.approx(want, rel=1e-5)
  scores = [np_scores(params, z, last_relu) for z in (STUDENT, TEACHERS.mean(0))]
  right = [np.heaviside(scores[0][:, 0] - scores[0][:, 1], 0.5), np.heaviside(scores[1][:, 1] - scores[1][:, 0], 0.5)]
  shown = recipe.metrics(view(params))
  assert set(shown) == {"told_apart"} and float(shown["told_apart"]) == pytest.approx(np.mean(right))


def gradients(mode):
  recipe = meal_v2(mode=mode)
  params = drawn(recipe)
  value = lambda z, p, t: recipe.terms["discriminator"].value(view(p, z, t))  # noqa: E731
  return jax.grad(value, (0, 1, 2))(jnp.float32(STUDENT), params, jnp.float32(TEACHERS)), params


def test_joint_helps_the_discriminator_and_adversarial_hinders_it():
  (joint, own, teachers), params = gradients("joint")
  (adversarial, same, _), _ = gradients("adversarial")
  step, i = 1e-5, np.unravel_index(np.abs(joint).argmax(), joint.shape)
  move = np.zeros((4, 5))
  move[i] = step
  up, down = (np_discriminator(params, STUDENT + sign * move, TEACHERS.mean(0)) for sign in (1, -1))
  want = (up - down) / (2 * step)
  assert float(joint[i]) == pytest.approx(want, rel=1e-3) and abs(want) > 1e-4
  np.testing.assert_allclose(adversarial, -joint, rtol=1e-6)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), own, same)
  assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(own)) > 1e-4
  np.testing.assert_array_equal(teachers, 0)  # frozen


def test_padding_is_left_out():
  recipe = meal_v2(last_relu=False)
  params = drawn(recipe)
  want = np_discriminator(params, STUDENT[:2], TEACHERS.mean(0)[:2], last_relu=False)
  masked = view(params, where=(True, True, False, False))
  assert float(recipe.terms["discriminator"].value(masked)) == pytest.approx(want, rel=1e-5)


def test_student_and_discriminator_learn_together_from_a_trained_start():
  rng = np.random.default_rng(0)
  make = lambda *widths: models.build("mlp", num_classes=3, image_shape=(2, 2, 1), widths=widths)  # noqa: E731
  x, y = jnp.float32(rng.normal(size=(8, 2, 2, 1))), jnp.asarray(rng.integers(0, 3, 8), jnp.int32)
  data = Batch(x, y, jnp.arange(8, dtype=jnp.int32))
  networks = [make(6), make(5, 4)]
  frozen = committee(networks, [n.init(jax.random.key(i)) for i, n in enumerate(networks)])
  recipe = meal_v2(last_relu=False)
  method = student_method(make(4), recipe, optimizer=make_optimizer("sgd", 0.1), targets=frozen.targets)
  start = make(4).init(jax.random.key(9))
  update = update_of(data, targets=frozen.arrays, start=start)
  state = method.init(jax.random.key(1), update)
  jax.tree.map(np.testing.assert_array_equal, state.roles["student"].params, start.params)
  after, logs = jax.jit(method.step)(jax.random.key(2), state, update)
  for role in ("student", "discriminator"):
    pairs = zip(*(jax.tree.leaves(s.roles[role].params) for s in (state, after)), strict=True)
    assert any((a != b).any() for a, b in pairs), role
  assert {"loss/similarity", "loss/discriminator", "method/told_apart"} <= set(logs)
  assert set(method.result(after).variables) == {"student"}  # the discriminator is thrown away


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"mode": "gan"}, r"method.mode='gan': unknown; choose one of adversarial, joint, off"),
    ({"hard_weight": 1.5}, r"method.hard_weight=1.5: must be at most 1"),
  ],
)
def test_bad_options_are_refused(options, message):
  with pytest.raises(UserError, match=message):
    meal_v2(**options)


def test_bad_committees_are_refused():
  recipe = meal_v2(mode="off")
  with pytest.raises(ValueError, match="at least one teacher"):
    recipe.terms["similarity"].value(view(teachers=()))
  with pytest.raises(ValueError, match=r"teacher_logits\[1\]"):
    recipe.terms["similarity"].value(view(teachers=(TEACHERS[0], TEACHERS[1][:, :4])))
  make = lambda count: models.build("mlp", num_classes=count, image_shape=(2, 2, 1), widths=(2,))  # noqa: E731
  networks = [make(3), make(4)]
  frozen = committee(networks, [n.init(jax.random.key(0)) for n in networks])
  with pytest.raises(UserError, match=r"its networks have \[3, 4\] classes"):
    ask(frozen, jnp.zeros((1, 2, 2, 1)), jnp.zeros(1, jnp.int32))


def test_widths_of_the_discriminator():
  assert discriminator_widths(1000) == (125, 15, 2)
  assert discriminator_widths(10) == (2, 2, 2)
  with pytest.raises(ValueError, match="at least 1"):
    discriminator_widths(0)
