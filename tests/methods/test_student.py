"""The builder of students against plain loops in NumPy, and every promise of a recipe on a network of two layers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from two_layers import (
  CLASSES,
  DATA,
  HELD_OUT,
  KEY,
  NETWORK,
  ROWS,
  SGD,
  STEPS,
  TEACHER,
  WHOLE,
  N,
  X,
  Y,
  apply,
  build,
  close,
  controlled,
  init,
  inputs,
  labels_nats,
  params,
  run,
  same,
  same_tree,
  softmax,
  taught,
  watched,
)

from jdistill import models
from jdistill.base import Batch, Connector, Network, Variables
from jdistill.methods.knowledge import (
  Recipe,
  Term,
  predictor,
  student_method,
)
from jdistill.methods.knowledge.logits import ce, kd
from jdistill.methods.optimizers import make_optimizer


def np_losses(p, rows, temperature):
  """Cross entropy, KD and the gradient of `0.3 CE + 0.7 KD`, in float64 by hand."""
  x, y, count = np.float64(X[rows]), Y[rows], len(rows)
  hidden = np.tanh(x @ p["a"])
  z, t = hidden @ p["b"], np.tanh(x @ np.float64(TEACHER["a"])) @ np.float64(TEACHER["b"])
  labels, q, target = np.eye(CLASSES)[y], softmax(z / temperature), softmax(t / temperature)
  cross_entropy = -np.log(softmax(z)[np.arange(count), y]).mean()
  divergence = temperature**2 * (target * np.log(target / q)).sum(-1).mean()
  dz = (0.3 * (softmax(z) - labels) + 0.7 * temperature * (q - target)) / count
  dh = dz @ p["b"].T * (1 - hidden**2)
  return cross_entropy, divergence, {"a": x.T @ dh, "b": hidden.T @ dz}


def test_two_epochs_of_kd_are_a_plain_loop():
  """SGD with momentum, decay in the gradient and a rate that changes with every step."""

  def rate(epoch):
    return 0.2 / (1 + STEPS * epoch)

  method = build(
    kd(temperature=3.0, ce_weight=0.3, kd_weight=0.7),
    optimizer=make_optimizer("sgd", rate, momentum=0.9, weight_decay=0.01),
  )
  states, shown = run(method, epochs=2)
  p = {name: np.float64(value) for name, value in params(states[0]).items()}
  velocity, step = dict.fromkeys(p, 0.0), 0
  for number, state in enumerate(states[1:]):
    values = []
    for rows in ROWS[number]:
      *losses, grads = np_losses(p, rows, 3.0)
      for name, grad in grads.items():
        velocity[name] = 0.9 * velocity[name] + grad + 0.01 * p[name]
        p[name] = p[name] - 0.2 / (1 + step) * velocity[name]
      values.append(losses)
      step += 1
    close(params(state), p)
    want = np.mean(values, axis=0)
    assert [shown[number]["loss/ce"], shown[number]["loss/kd"]] == pytest.approx(want.tolist(), rel=1e-5)
  assert step == 2 * STEPS


def test_the_average_follows_the_student_from_its_start():
  method = build(ce(), ema_decay=0.75)
  states, _ = run(method, epochs=3, rows=WHOLE)
  average = params(states[0])
  same(method.result(states[0]).variables["student"].params, average)
  for state in states[1:]:
    average = jax.tree.map(lambda a, b: 0.75 * a + 0.25 * b, average, params(state))
    close(method.result(state).variables["student"].params, average)
  same(build(ce()).result(states[-1]).variables["student"].params, params(states[-1]))


def test_bfloat16_is_for_computing_and_not_for_keeping():
  seen = []

  def spy(p, x, **options):
    seen.append({leaf.dtype for leaf in jax.tree.leaves((p, x))})
    return apply(p, x, **options)

  recipe = kd()
  options = {"optimizer": make_optimizer("sgd", 0.1), "targets": taught, "ema_decay": 0.5}
  method = student_method(Network(init, spy), recipe, precision="bfloat16", **options)
  states, shown = run(method)
  assert seen[-1] == {jnp.dtype(jnp.bfloat16)}
  floats = [leaf.dtype for leaf in jax.tree.leaves(states) if jnp.issubdtype(leaf.dtype, jnp.floating)]
  assert set(floats) == {jnp.dtype(jnp.float32)}
  (_, exact), want = run(student_method(NETWORK, recipe, **options))
  coarse = states[1]
  assert not np.array_equal(params(coarse)["a"], params(exact)["a"])
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=0.02), params(coarse), params(exact))
  assert shown[0]["loss/kd"] == pytest.approx(want[0]["loss/kd"], rel=0.05)


def test_bfloat16_keeps_running_statistics_in_float32():
  network = models.build("convnet_bn", num_classes=3, image_shape=(2, 2, 1), width=2, depth=1)
  data = Batch(jnp.ones((4, 2, 2, 1)), jnp.zeros(4, jnp.int32), jnp.arange(4))
  method = student_method(network, ce(), optimizer=SGD, precision="bfloat16", ema_decay=0.9)
  before = jax.eval_shape(method.init, KEY, inputs(data=data, targets=()))
  after, _ = jax.eval_shape(method.step, KEY, before, inputs(data=data, targets=()))
  assert jax.tree.leaves(before.stats)
  assert {leaf.dtype for leaf in jax.tree.leaves((after.stats, after.ema))} == {jnp.dtype(jnp.float32)}


def test_another_precision_is_refused():
  with pytest.raises(ValueError, match="precision='float16': unknown; choose one of float32, bfloat16"):
    build(ce(), precision="float16")


def line(name, slope=1.0):
  """A connector with one number whose term has the gradient `slope` in it, whatever the networks say."""
  part = Connector(lambda key, student, teachers: Variables(jnp.zeros(())), lambda v, *_, **__: (slope * v.params, {}))
  return {name: part}, {name: Term(lambda view: view.connectors[name])}


def with_lines(recipe, *names, **options):
  pieces = [line(name) for name in names]
  parts = {name: part for one, _ in pieces for name, part in one.items()}
  terms = {name: term for _, one in pieces for name, term in one.items()}
  return recipe._replace(connectors=parts, terms=recipe.terms | terms, **options)


def test_every_role_has_its_optimiser():
  method = build(with_lines(ce(), "first", "second"), optimizers={"second": optax.sgd(2.0)})
  (_, state), _ = run(method)
  assert float(params(state, "first")) == pytest.approx(-STEPS * 0.1)
  assert float(params(state, "second")) == pytest.approx(-STEPS * 2.0)


def test_a_role_that_does_not_train_keeps_parameters_and_momentum():
  trains = {"first": lambda now: now >= 1, "student": lambda now: (now < 1) | (now >= 2)}
  recipe = with_lines(ce(), "first", "second", trainable=trains)
  states, _ = run(build(recipe, optimizer=make_optimizer("sgd", 0.1, momentum=0.9)), epochs=3)
  stays = [{name: same_tree(a.roles[name], b.roles[name]) for name in a.roles} for a, b in itertools.pairwise(states)]
  assert stays == [
    {"student": False, "first": True, "second": False},
    {"student": True, "first": False, "second": False},
    {"student": False, "first": False, "second": False},
  ]
  # the second has gone six steps when the first has gone three: 0.1 (1 + 1.9 + 2.71 ...) each
  steps = np.cumsum(np.cumsum(0.9 ** np.arange(6)))
  assert float(params(states[2], "first")) == pytest.approx(-0.1 * steps[2], rel=1e-5)
  assert float(params(states[2], "second")) == pytest.approx(-0.1 * steps[5], rel=1e-5)


def test_an_outer_role_descends_the_held_out_loss_after_a_virtual_step():
  """Its gradient is that of the composed function; the student then steps with the new controller."""
  method = build(controlled(), optimizers={"mixer": optax.sgd(5.0)})
  (before, after), shown = run(method, rows=WHOLE, held_out=HELD_OUT)
  theta, omega = params(before), params(before, "mixer")

  def inner(theta, omega):
    share, logits = jax.nn.sigmoid(omega), apply(theta, DATA.x).logits
    return jnp.mean(share * labels_nats(logits, DATA.y) + (1 - share) * 2.0 * (logits**2).sum(-1))

  def held_out(omega):
    ahead = jax.tree.map(lambda p, g: p - 0.3 * g, theta, jax.grad(inner)(theta, omega))
    return jnp.mean(labels_nats(apply(ahead, HELD_OUT.x).logits, HELD_OUT.y))

  value, gradient = jax.jit(jax.value_and_grad(held_out))(omega)
  assert abs(float(gradient)) > 1e-3
  assert float(params(after, "mixer")) == pytest.approx(float(omega - 5.0 * gradient), rel=1e-4)
  assert shown[0]["outer/loss"] == pytest.approx(float(value), rel=1e-5)
  new = params(after, "mixer")
  close(params(after), jax.tree.map(lambda p, g: p - 0.1 * g, theta, jax.jit(jax.grad(inner))(theta, new)))


def test_a_frozen_outer_role_stays():
  (before, after), shown = run(build(controlled(through=False)), held_out=HELD_OUT)
  same(after.roles["mixer"], before.roles["mixer"])
  assert not same_tree(params(before), params(after)) and "outer/loss" not in shown[0]


def test_an_outer_role_without_held_out_examples_is_refused():
  with pytest.raises(ValueError, match="mixer: no held-out examples to learn from"):
    run(build(controlled()))


def test_methods_start_from_the_same_student_and_memories_know_the_rows():
  plain, others = watched(ce()), with_lines(watched(kd()), "first", "second")
  recipes = [plain, others, watched(controlled(through=False))]
  ran = [run(build(recipe))[0] for recipe in recipes]
  for start, end in ran[1:]:
    same(params(start), params(ran[0][0]))
    same(end.memory, np.bincount(ROWS[0].ravel(), minlength=N))
  assert not np.array_equal(params(ran[0][1])["a"], params(ran[1][1])["a"])


def test_a_student_may_start_from_given_parameters():
  given = init(jax.random.key(77))
  method = build(ce(), ema_decay=0.5, optimizer=make_optimizer("adam", 0.1))
  (before, after), _ = run(method, rows=WHOLE, start=given)
  same(params(before), given.params)
  same(before.ema, given)
  assert not any(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(before.roles["student"].opt_state))
  assert not same_tree(params(after), given.params)


def test_weights_and_metrics_know_the_epoch_with_its_fraction():
  recipe = Recipe(
    {"one": Term(lambda view: view.student.logits[:, 0] * 0 + 1, lambda now: now)},
    metrics=lambda view: {"epoch": view.epoch, "bits": jnp.int32(3)},
  )
  _, shown = run(build(recipe), epochs=2)
  assert [one["method/epoch"] for one in shown] == pytest.approx([1 / 3, 4 / 3])
  assert shown[0]["method/bits"] == 3.0 and shown[0]["loss/one"] == 1.0  # unweighted


@pytest.mark.parametrize("chunk_size", [None, 7])
def test_terms_may_ask_the_student_about_other_inputs(chunk_size):
  """The gradient goes through the answer: of the mean of the first logit on doubled inputs."""
  recipe = Recipe({"away": Term(lambda view: view.ask(2 * view.batch.x).logits[:, 0])}, needs=("labels",))
  (before, after), _ = run(build(recipe, chunk_size=chunk_size), rows=WHOLE)
  old = {name: np.float64(leaf) for name, leaf in params(before).items()}
  hidden = np.tanh(2 * X @ old["a"])
  first = np.eye(CLASSES)[0]
  want = {
    "a": old["a"] - 0.1 * 2 * X.T @ ((1 - hidden**2) * old["b"][:, 0]) / N,
    "b": old["b"] - 0.1 * hidden.mean(0)[:, None] * first,
  }
  close(params(after), want)


def test_the_finished_student_is_what_its_recipe_deploys():
  def predict(outputs, variables, constants):
    return outputs.logits + variables["first"].params + constants

  recipe = with_lines(ce(), "first", "second", predict=predict, keeps=("first",))
  method = build(recipe)
  (_, state), _ = run(method)
  done = method.result(state)
  assert set(done.variables) == {"student", "first"}
  found = predictor(NETWORK, recipe)(done, jnp.float32(10.0), DATA.x)
  want = apply(params(state), DATA.x).logits + params(state, "first") + 10
  close(found, want)


def test_a_recipe_without_a_teacher_sees_none():
  recipe = ce()._replace(metrics=lambda view: {"teachers": jnp.float32(len(view.teachers))})
  _, shown = run(build(recipe, targets=None), targets=())
  assert shown[0]["method/teachers"] == 0


def test_one_program_serves_all_numbers_of_a_method():
  """With `rebuild`, other numbers give what a recipe of these numbers gives, and compile nothing."""
  rebuild = lambda options: kd(ce_weight=0.5, **options)  # noqa: E731
  method = build(rebuild({"kd_weight": 1.0, "temperature": 2.0}), rebuild=rebuild)
  step = jax.jit(method.step)
  for kd_weight, temperature in ((1.0, 2.0), (3.0, 5.0)):
    options = {"kd_weight": jnp.float32(kd_weight), "temperature": jnp.float32(temperature)}
    start = method.init(KEY, inputs(options=options))
    found, shown = step(KEY, start, inputs(options=options))
    static = build(rebuild({"kd_weight": kd_weight, "temperature": temperature}))
    want, wanted = jax.jit(static.step)(KEY, start, inputs())
    close(found.roles["student"].params, want.roles["student"].params)
    assert float(shown["loss/kd"]) == pytest.approx(float(wanted["loss/kd"]), rel=1e-5)
  assert step._cache_size() == 1
