"""TGeo-KD: its loss and state on a hand-made view, its rules, and its hypergradient against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from updates import update_of

from jdistill import losses, models
from jdistill.base import Batch, Outputs, UserError
from jdistill.bilevel import one_step_hypergradient
from jdistill.methods.knowledge import StepOutputs, student_method
from jdistill.methods.knowledge.outer import outer_gradient
from jdistill.methods.knowledge.tgeo_kd import mean_predictions, separation, tgeo_kd
from jdistill.methods.optimizers import make_optimizer
from jdistill.teachers.frozen import ask, committee

RNG = np.random.default_rng(4)
STUDENT, TEACHER = RNG.normal(size=(6, 3)), 2 * RNG.normal(size=(6, 3))
LABELS, CLEAN = np.array([0, 2, 1, 1, 2, 0]), np.array([0, 1, 1, 0, 2, 0])
MEANS = RNG.dirichlet(np.ones(3), size=3)


def softmax(z):
  e = np.exp(z - z.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def view(params=None, epoch=0.0, student=STUDENT, where=None, extra=None):
  out = [Outputs(jnp.asarray(z, jnp.float32), jnp.zeros((6, 2))) for z in (student, TEACHER)]
  batch = Batch(jnp.zeros((6, 1)), jnp.int32(LABELS), jnp.arange(6, dtype=jnp.int32), extra=extra or {})
  where = jnp.ones(6, bool) if where is None else jnp.asarray(where)
  return StepOutputs(
    batch=batch, student=out[0], teachers=(out[1],), connectors={}, params=params or {}, memory=(),
    constants=jnp.float32(MEANS), where=where, epoch=jnp.float32(epoch), key=jax.random.key(0), rows=batch.ids,
  )  # fmt: skip


def fused(recipe, **kwargs):
  return np.asarray(recipe.terms["fused"].value(view(**kwargs)))


def np_fused(alpha, temperature):
  t, s = softmax(TEACHER / temperature), softmax(STUDENT / temperature)
  kl = (t * np.log(t / s)).sum(-1)
  ce = -np.log(softmax(STUDENT)[np.arange(6), LABELS])
  return alpha * temperature**2 * kl + (1 - alpha) * ce


def np_controller(layers):
  """`alpha` in float64 from its own formula, state and network."""
  s, t, g, m = softmax(STUDENT), softmax(TEACHER), np.eye(3)[LABELS], MEANS[LABELS]
  x = np.concatenate([s, t, g, m, (m - s) ** 2, (g - s) ** 2, (t - s) ** 2, (t - g) ** 2, (m - g) ** 2], axis=1)
  for number, (kernel, bias) in enumerate(layers):
    x = x @ np.float64(kernel) + np.float64(bias)
    x = np.where(x > 0, x, 0.01 * x) if number < 2 else x
  return 1 / (1 + np.exp(-x[:, 0]))


def test_the_controller_weighs_teacher_and_label():
  recipe = tgeo_kd(temperature=2.0)
  params = recipe.outer.init(jax.random.key(1), view().student, view().teachers)
  assert [kernel.shape for kernel, _ in params] == [(27, 32), (32, 16), (16, 1)]
  alpha = np_controller(params)
  got = fused(recipe, params={"controller": params})
  np.testing.assert_allclose(got, np_fused(alpha, 2.0), rtol=2e-5)
  shown = recipe.metrics(view(params={"controller": params}))
  assert set(shown) == {"alpha_mean", "alpha_min", "alpha_max"}
  np.testing.assert_allclose([*map(float, shown.values())], [alpha.mean(), alpha.min(), alpha.max()], rtol=1e-5)


@pytest.mark.parametrize(
  ("options", "alpha"),
  [
    ({"rule": "fixed", "alpha": 0.3}, 0.3),
    ({"rule": "linear", "alpha": 0.9, "alpha_last": 0.1, "decay_epochs": 8.0}, 0.9 - 0.8 * 2 / 8),
    ({"rule": "correct", "alpha": 0.7}, np.where(TEACHER.argmax(-1) == LABELS, 0.7, 0.0)),
    ({"rule": "confidence", "alpha": 0.5}, 0.5 * softmax(TEACHER).max(-1)),
  ],
)
def test_the_rules_that_it_competes_with(options, alpha):
  recipe = tgeo_kd(temperature=1.5, **options)
  assert recipe.outer is None and recipe.prepare is None and recipe.needs == ("teacher", "labels")
  np.testing.assert_allclose(fused(recipe, epoch=2.0), np_fused(alpha, 1.5), rtol=2e-5)


def test_the_oracle_knows_who_is_wrong_and_its_separation_is_perfect():
  right = TEACHER.argmax(-1) == CLEAN
  noisy, wrong = (LABELS != CLEAN) & right, (LABELS == CLEAN) & ~right
  assert noisy.any() and wrong.any()
  recipe = tgeo_kd(rule="oracle", alpha=0.4)
  extra = {"clean_labels": jnp.int32(CLEAN)}
  np.testing.assert_allclose(
    fused(recipe, extra=extra), np_fused(np.where(noisy, 1.0, np.where(wrong, 0.0, 0.4)), 1.5), rtol=2e-5
  )
  assert float(recipe.metrics(view(extra=extra))["separation"]) == 1.0
  with pytest.raises(UserError, match=r"method.rule='oracle': needs extra\['clean_labels'\]"):
    fused(recipe)


def test_separation_is_the_area_under_the_curve():
  score = jnp.float32([0.9, 0.2, 0.5, 0.5, 0.1])
  high, low = jnp.array([1, 0, 1, 0, 0], bool), jnp.array([0, 1, 0, 1, 0], bool)
  assert float(separation(score, high, low)) == (1 + 1 + 1 + 0.5) / 4
  assert float(separation(score, high, jnp.zeros(5, bool))) == 0.5


def test_padding_does_not_enter_the_metrics():
  recipe = tgeo_kd(rule="confidence", alpha=1.0)
  shown = recipe.metrics(view(where=[1, 1, 1, 1, 0, 0]))
  np.testing.assert_allclose(float(shown["alpha_mean"]), softmax(TEACHER).max(-1)[:4].mean(), rtol=1e-5)


def test_the_student_cannot_move_its_own_weight():
  """With the state's gradient stopped, the student's gradient is that with `alpha` held."""
  recipe = tgeo_kd()
  params = {"controller": recipe.outer.init(jax.random.key(1), view().student, view().teachers)}
  got = jax.grad(lambda z: recipe.terms["fused"].value(view(params, student=z)).sum())(jnp.float32(STUDENT))
  alpha = np_controller(params["controller"])[:, None]
  t, s, plain = softmax(TEACHER / 1.5), softmax(STUDENT / 1.5), softmax(STUDENT)
  want = alpha * 1.5 * (s - t) + (1 - alpha) * (plain - np.eye(3)[LABELS])
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def test_mean_predictions_and_the_warning_about_absent_classes():
  teachers = (Outputs(jnp.float32(TEACHER), jnp.zeros((6, 2))),)
  means = mean_predictions(teachers, jnp.int32(LABELS), ())
  want = [softmax(TEACHER)[c == LABELS].mean(0) for c in range(3)]
  np.testing.assert_allclose(means, want, rtol=1e-5)
  with pytest.warns(UserWarning, match="no training example of class 1: its mean teacher prediction is taken as unif"):
    means = mean_predictions(teachers, jnp.int32(np.where(LABELS == 1, 0, LABELS)), ())
  np.testing.assert_allclose(means[1], np.full(3, 1 / 3), rtol=1e-6)


def linear_student(rng, features=4, classes=3):
  """Training and held-out examples and the parameters of a linear student, in float64."""
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape))  # noqa: E731
  train = draw(8, features), jnp.asarray(rng.integers(0, classes, 8)), 2 * draw(8, classes)
  held_out = draw(5, features), jnp.asarray(rng.integers(0, classes, 5))
  return draw(features, classes), train, held_out


def central_differences(function, omega, step=1e-5):
  out = np.zeros(omega.size)
  for i in range(omega.size):
    move = np.zeros(omega.size)
    move[i] = step
    out[i] = (function(omega + move) - function(omega - move)) / (2 * step)
  return out


def test_the_hypergradient_of_a_controller_with_two_parameters(x64):
  theta, (x, y, teacher), (x_val, y_val) = linear_student(np.random.default_rng(0))
  feature = jax.nn.softmax(teacher)[jnp.arange(8), y]
  lr = 0.3

  def inner(theta, omega):
    alpha = jax.nn.sigmoid(omega[0] * feature + omega[1])
    return jnp.mean(losses.fused_kd_loss(x @ theta, teacher, y, alpha, temperature=1.5))

  def outer(theta):
    return jnp.mean(losses.cross_entropy(x_val @ theta, y_val))

  def np_outer(omega):
    """The same in NumPy, from the formula of the gradient of the student's loss."""
    alpha = 1 / (1 + np.exp(-(omega[0] * np.asarray(feature) + omega[1])))[:, None]
    z = np.asarray(x @ theta)
    t, s = softmax(np.asarray(teacher) / 1.5), softmax(z / 1.5)
    gradient = (alpha * 1.5 * (s - t) + (1 - alpha) * (softmax(z) - np.eye(3)[np.asarray(y)])) / 8
    moved = np.asarray(x_val) @ (np.asarray(theta) - lr * np.asarray(x).T @ gradient)
    return -np.log(softmax(moved)[np.arange(5), np.asarray(y_val)]).mean()

  omega = np.array([0.7, -0.4])
  value, gradient = one_step_hypergradient(inner, outer, theta, jnp.asarray(omega), lr)
  assert float(value) == pytest.approx(np_outer(omega), rel=1e-10)
  np.testing.assert_allclose(gradient, central_differences(np_outer, omega), rtol=1e-6)
  assert np.abs(gradient).min() > 1e-4


def test_the_hypergradient_of_the_recipe_through_the_trainers_outer_update(x64):
  """All parameters of a small controller, reading the real state, against finite differences of the real loss."""
  theta, (x, y, teacher), (x_val, y_val) = linear_student(np.random.default_rng(1))
  recipe = tgeo_kd(hidden=2, virtual_lr=0.25, held_out_size=5)
  means = mean_predictions((Outputs(teacher, teacher),), y, ())
  batch = Batch(x, y, jnp.arange(8))

  def loss(params):
    student = Outputs(x @ params["student"], x)
    seen = StepOutputs(
      batch, student, (Outputs(teacher, teacher),), {}, params, (), means, jnp.ones(8, bool), jnp.float32(0),
      jax.random.key(0), batch.ids,
    )  # fmt: skip
    return jnp.mean(recipe.terms["fused"].value(seen)), ()

  omega = recipe.outer.init(jax.random.key(3), Outputs(x @ theta, x), (Outputs(teacher, teacher),))
  omega = jax.tree.map(lambda a: a.astype(jnp.float64), omega)
  flat, rebuild = jax.flatten_util.ravel_pytree(omega)

  @jax.jit
  def objective(vector):
    gradient = jax.grad(lambda t: loss({"student": t, "controller": rebuild(vector)})[0])(theta)
    return jnp.mean(losses.cross_entropy(x_val @ (theta - 0.25 * gradient), y_val))

  forward = lambda params, stats, x, key, train: Outputs(x @ params, x)  # noqa: E731
  params, held_out = {"student": theta, "controller": omega}, Batch(x_val, y_val, jnp.arange(5))
  logs, gradient = outer_gradient(recipe.outer, held_out, loss, params, {}, forward, jax.random.key(0), jnp.float32(0))
  flat_gradient = jax.flatten_util.ravel_pytree(gradient)[0]
  want = central_differences(lambda v: float(objective(jnp.asarray(v))), np.asarray(flat))
  assert float(logs["outer/loss"]) == pytest.approx(float(objective(flat)), rel=1e-6)
  np.testing.assert_allclose(flat_gradient, want, rtol=1e-3, atol=1e-9)
  assert np.abs(want).max() > 1e-4


def toy(recipe, *, held_out=True, lr=0.1):
  rng = np.random.default_rng(0)
  network = models.build("mlp", num_classes=3, image_shape=(2, 2, 1), widths=(4,))
  x, y = jnp.float32(rng.normal(size=(12, 2, 2, 1))), jnp.asarray(rng.integers(0, 3, 12), jnp.int32)
  data = Batch(x, y, jnp.arange(12, dtype=jnp.int32))
  frozen = committee([network], [network.init(jax.random.key(5))])
  method = student_method(network, recipe, optimizer=make_optimizer("sgd", lr, momentum=0.0), targets=frozen.targets)
  outs = ask(frozen, x, data.ids)
  constants = recipe.prepare(outs, y, frozen.arrays) if recipe.prepare else ()
  apart = Batch(x[::-1] + 1, y, data.ids) if held_out else None
  return method, update_of(data, targets=frozen.arrays, constants=constants, held_out=apart)


def test_the_controller_moves_only_with_the_hypergradient():
  method, update = toy(tgeo_kd(hidden=4, held_out_size=6))
  before = method.init(jax.random.key(1), update)
  after, logs = jax.jit(method.step)(jax.random.key(2), before, update)
  moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), before.roles, after.roles)
  assert max(jax.tree.leaves(moved["controller"].params)) > 0 and "outer/loss" in logs
  frozen, update = toy(tgeo_kd(hidden=4, outer="none"), held_out=False)
  after, logs = jax.jit(frozen.step)(jax.random.key(2), before, update)
  moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), before.roles, after.roles)
  assert max(jax.tree.leaves(moved["controller"].params)) == 0 and "outer/loss" not in logs
  assert max(jax.tree.leaves(moved["student"].params)) > 0


def test_a_rate_of_its_own_gives_the_controller_an_adam_with_the_decay_in_its_gradient():
  moved = {}
  for decay in (0.0, 1e4):
    method, update = toy(tgeo_kd(hidden=4, held_out_size=6, controller_lr=0.1, controller_weight_decay=decay), lr=0.3)
    before = method.init(jax.random.key(1), update)
    roles = jax.jit(method.step)(jax.random.key(2), before, update)[0].roles
    old, new = before.roles["controller"].params, roles["controller"].params
    moved[decay] = [(np.asarray(b - a), np.asarray(a)) for a, b in zip(*map(jax.tree.leaves, (old, new)), strict=True)]
    assert (
      max(
        float(jnp.abs(a - b).max())
        for a, b in zip(*(jax.tree.leaves(r["student"].params) for r in (before.roles, roles)), strict=True)
      )
      > 0
    )
  # Adam's first step is its rate against the sign of the gradient, and a huge decay is all of that gradient
  steps = np.concatenate([np.abs(step).ravel() for step, _ in moved[0.0]])
  assert 0.09 < np.median(steps[steps > 0]) <= 0.1 + 1e-6
  for step, old in moved[1e4]:
    np.testing.assert_allclose(step[old != 0], -0.1 * np.sign(old[old != 0]), rtol=1e-3)


def test_an_outer_update_without_held_out_examples_is_refused():
  method, update = toy(tgeo_kd(hidden=4), held_out=False)
  state = method.init(jax.random.key(1), update)
  with pytest.raises(ValueError, match="controller: no held-out examples to learn from"):
    method.step(jax.random.key(2), state, update)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"rule": "fixed", "alpha": 1.2}, r"method.alpha=1.2: must be at most 1"),
    ({"rule": "linear", "alpha_last": -0.1}, r"method.alpha_last=-0.1"),
    ({"rule": "linear", "decay_epochs": 0.0}, r"method.decay_epochs=0.0: must be above 0"),
    ({"controller_weight_decay": 0.1}, r"method.controller_weight_decay=0.1: .* set method.controller_lr, too"),
    ({"rule": "best"}, r"method.rule='best': unknown; choose one of confidence, correct, fixed"),
    ({"outer": "adjoint"}, r"method.outer='adjoint': unknown; choose one of hypergradient, none"),
    ({"state": "edges+edges"}, r"method.state='edges\+edges': join different ones of probabilities"),
  ],
)
def test_bad_options_are_refused(options, message):
  with pytest.raises(UserError, match=message):
    tgeo_kd(**options)


def test_soft_labels_are_refused():
  seen = view()
  seen = seen._replace(batch=seen.batch._replace(y=jnp.full((6, 3), 1 / 3)))
  with pytest.raises(ValueError, match="labels"):
    tgeo_kd(rule="fixed").terms["fused"].value(seen)
