"""The builder of students against plain loops in NumPy, and every promise of a recipe on a network of two layers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jdistill import models
from jdistill.base import Augmentation, Batch, Connector, Network, Outputs, Variables
from jdistill.methods.knowledge import (
  Memory,
  Outer,
  Recipe,
  Sharpness,
  StudentInput,
  Term,
  look,
  predictor,
  student_method,
)
from jdistill.methods.knowledge.logits import ce, kd
from jdistill.methods.optimizers import make_optimizer
from jdistill.ops.gsam import gsam_gradient

KEY = jax.random.key(5)
RNG = np.random.default_rng(0)
N, BATCH, STEPS, FEATURES, CLASSES = 14, 4, 3, 2, 3
X, Y = RNG.normal(size=(N, FEATURES)).astype(np.float32), RNG.integers(0, CLASSES, N).astype(np.int32)
DATA = Batch(jnp.asarray(X), jnp.asarray(Y), jnp.asarray(100 + np.arange(N), jnp.int32))
ALL = jnp.arange(N, dtype=jnp.int32)
HELD_OUT = Batch(jnp.float32(RNG.normal(size=(5, FEATURES))), jnp.int32([0, 1, 2, 1, 0]), jnp.arange(5))
SGD = optax.sgd(0.1)


def apply(params, x, *, train=False, rngs=None, stats=None, sites=None):
  hidden = jnp.tanh(x @ params["a"])
  return Outputs(hidden @ params["b"], hidden, stats=stats or {})


def init(key):
  a, b = jax.random.split(key)
  return Variables({"a": jax.random.normal(a, (FEATURES, 5)), "b": jax.random.normal(b, (5, CLASSES))})


NETWORK = Network(init, apply)
TEACHER = init(jax.random.key(9)).params


def taught(arrays, key, batch, record, step):
  return (apply(arrays, batch.x),)


def build(recipe, **options):
  return student_method(NETWORK, recipe, **({"optimizer": SGD, "targets": taught, "num_examples": N} | options))


def inputs(number=0, rows=None, data=DATA, weight=None, steps=STEPS, **options):
  """Update `number` of epochs of `steps` updates each."""
  rows = jnp.asarray(np.arange(len(data.y)) if rows is None else rows, jnp.int32)
  batch = jax.tree.map(lambda leaf: leaf[rows], data)._replace(weight=None if weight is None else jnp.float32(weight))
  here = {"rows": rows, "targets": TEACHER} | options
  return StudentInput(batch, jnp.int32(number), jnp.float32(number / steps), **here)


ROWS = [np.random.default_rng(seed).permutation(N)[: STEPS * BATCH].reshape(STEPS, BATCH) for seed in range(4)]


def run(method, epochs=1, rows=ROWS, **options):
  """The states after each epoch, the first of them the start, and the mean metrics of each."""
  steps = len(rows[0])
  states = [jax.jit(method.init)(KEY, inputs(0, rows[0][0], steps=steps, **options))]
  step, shown = jax.jit(method.step), []
  for number in range(epochs):
    state, found = states[-1], []
    for position, chosen in enumerate(rows[number]):
      update = number * steps + position
      state, metrics = step(jax.random.fold_in(KEY, update), state, inputs(update, chosen, steps=steps, **options))
      found.append(metrics)
    states.append(state)
    shown.append({name: float(np.mean([one[name] for one in found])) for name in found[0]})
  return states, shown


WHOLE = [[np.arange(N)]] * 3  # one update of all examples per epoch


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def close(a, b, rtol=2e-5):
  jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, rtol=rtol, atol=2e-6), a, b)


def params(state, role="student"):
  return state.roles[role].params


def watched(recipe):
  """The recipe with a memory that writes down which rows were seen."""

  def update(step):
    return step.memory.at[step.rows].add(1)

  return recipe._replace(memory=Memory(lambda key, n: jnp.zeros(n, jnp.int32), update))


def softmax(z):
  e = np.exp(z - z.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


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
  stays = [{name: _same_tree(a.roles[name], b.roles[name]) for name in a.roles} for a, b in itertools.pairwise(states)]
  assert stays == [
    {"student": False, "first": True, "second": False},
    {"student": True, "first": False, "second": False},
    {"student": False, "first": False, "second": False},
  ]
  # the second has gone six steps when the first has gone three: 0.1 (1 + 1.9 + 2.71 ...) each
  steps = np.cumsum(np.cumsum(0.9 ** np.arange(6)))
  assert float(params(states[2], "first")) == pytest.approx(-0.1 * steps[2], rel=1e-5)
  assert float(params(states[2], "second")) == pytest.approx(-0.1 * steps[5], rel=1e-5)


def _same_tree(a, b):
  return all(np.array_equal(u, v) for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_what_has_no_weight_does_not_count():
  """Padding may hold anything: the student is the one without it."""
  broken = DATA._replace(x=DATA.x.at[2:4].set(jnp.nan))
  method = build(kd())
  start = method.init(KEY, inputs(rows=[0, 1]))
  _, shown = method.step(KEY, start, inputs(rows=[0, 1, 2, 3], weight=[1, 1, 0, 0], data=broken))
  plain, want = method.step(KEY, start, inputs(rows=[0, 1]))
  assert np.isfinite(float(shown["loss/kd"]))
  assert {k: float(v) for k, v in shown.items()} == pytest.approx({k: float(v) for k, v in want.items()}, rel=1e-5)
  masked = inputs(rows=[0, 1, 2, 3], weight=[1, 1, 0, 0])
  close(params(method.step(KEY, start, masked)[0]), params(plain))


def test_losses_are_means_by_weight():
  method = build(ce())
  start = method.init(KEY, inputs())
  weighted, _ = method.step(KEY, start, inputs(rows=[0, 1], weight=[2.0, 1.0]))
  repeated, _ = method.step(KEY, start, inputs(rows=[0, 0, 1]))
  close(params(weighted), params(repeated))


def test_soft_labels_are_label_logits():
  soft = DATA._replace(y=jnp.float32(RNG.normal(size=(N, CLASSES))))
  method = build(ce(label_smoothing=0.1))
  start = method.init(KEY, inputs(data=soft))
  _, shown = method.step(KEY, start, inputs(data=soft))
  logs = np.log(softmax(np.float64(apply(params(start), X).logits)))
  want = -(0.9 * softmax(np.float64(soft.y)) + 0.1 / CLASSES) * logs
  assert float(shown["loss/ce"]) == pytest.approx(want.sum(-1).mean(), rel=1e-5)
  hard = DATA._replace(y=jnp.where(jax.nn.one_hot(DATA.y, CLASSES) > 0, 50.0, 0.0))
  close(params(method.step(KEY, start, inputs(data=hard))[0]), params(method.step(KEY, start, inputs())[0]))


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_a_chunked_gradient_is_the_whole_one(size):
  weight = np.arange(N) % 3
  recipe = kd()
  (state, found), (want, wanted) = (
    method.step(KEY, method.init(KEY, inputs()), inputs(weight=weight))
    for method in (build(recipe, chunk_size=size), build(recipe))
  )
  close(params(state), params(want))
  assert {k: float(v) for k, v in found.items()} == pytest.approx({k: float(v) for k, v in wanted.items()}, rel=1e-5)


def test_chunks_are_refused_where_they_cannot_work():
  for recipe, message in (
    (controlled(), "chunk_size=2: the method has an outer role"),
    (ce()._replace(passes=2), "chunk_size=2: the method has several passes"),
    (watched(ce()), "chunk_size=2: the method has a memory"),
  ):
    with pytest.raises(ValueError, match=message):
      build(recipe, chunk_size=2)
  coupled = build(Recipe({"sum": Term(lambda step: jnp.sum(step.student.logits))}), chunk_size=2)
  with pytest.raises(ValueError, match="the term sum couples the rows of a batch"):
    coupled.step(KEY, coupled.init(KEY, inputs()), inputs())
  network = models.build("convnet_bn", num_classes=CLASSES, image_shape=(2, 2, 1), width=2, depth=1)
  data = DATA._replace(x=jnp.ones((N, 2, 2, 1)))
  method = student_method(network, ce(), optimizer=SGD, chunk_size=2)
  state = jax.eval_shape(method.init, KEY, inputs(data=data))
  with pytest.raises(ValueError, match="batch norm needs all rows"):
    jax.eval_shape(method.step, KEY, state, inputs(data=data))


@pytest.mark.parametrize("chunk_size", [None, 7])
def test_a_sharpness_aware_update_is_gsams(chunk_size):
  method = build(ce(), sharpness=Sharpness(0.1, 0.3, False), chunk_size=chunk_size)
  start = method.init(KEY, inputs())

  def loss(p):
    return jnp.mean(labels_nats(apply(p, DATA.x), DATA.y))

  value, gradient = gsam_gradient(jax.value_and_grad(loss), params(start), rho=0.1, alpha=0.3, adaptive=False)
  state, shown = method.step(KEY, start, inputs())
  close(params(state), jax.tree.map(lambda p, g: p - 0.1 * g, params(start), gradient))
  assert float(shown["loss/ce"]) == pytest.approx(float(value), rel=1e-5)


def test_replayed_records_take_the_place_of_new_draws():
  shift = Augmentation(lambda key, shape: jax.random.normal(key, (shape[0], 1)), lambda draw, x: x + draw)
  stored = jnp.float32(RNG.normal(size=(2, N, 1)))
  seen = []

  def targets(arrays, key, batch, record, step):
    seen.append(record)
    return (apply(TEACHER, batch.x),)

  method = build(kd(), augment=shift, targets=targets, replay=lambda arrays, step: arrays[step])
  start = method.init(KEY, inputs(targets=stored))
  state, shown = method.step(KEY, start, inputs(1, targets=stored))
  same(seen[-1], stored[1])
  moved = DATA._replace(x=DATA.x + stored[1])
  plain, want = build(kd()).step(KEY, start, inputs(1, data=moved))
  close(params(state), params(plain))
  assert float(shown["loss/kd"]) == pytest.approx(float(want["loss/kd"]), rel=1e-5)


def test_a_policy_sees_the_student_and_the_teacher_as_they_are():
  members = jnp.int32([9, 3, 4])
  method = build(ce())
  state = method.init(KEY, inputs())
  found = look(NETWORK, ce(), taught)(state, DATA, members, TEACHER, jnp.float32(100.0))
  positions = jnp.int32([2, 0])
  same(found.examples(positions).ids, DATA.ids[jnp.int32([4, 9])])
  close(found.student(positions), apply(params(state), X[[4, 9]]).logits)
  close(found.teacher(positions), apply(TEACHER, X[[4, 9]]).logits)
  assert found.constants == 100
  same(look(NETWORK, ce())(state, DATA, None).examples(positions).ids, DATA.ids[positions])


def controlled(through=True, size=50):
  """Cross entropy and KD, mixed by one learned number."""

  def mixed(view):
    share = jax.nn.sigmoid(view.params["mixer"])
    return share * labels_nats(view.student.logits, view.y) + (1 - share) * 2.0 * (view.student.logits**2).sum(-1)

  outer = Outer(
    "mixer", lambda key, student, teachers: jnp.float32(0.4), labels_nats, batch_size=size, lr=0.3, through=through
  )
  return Recipe({"mixed": Term(mixed)}, outer=outer)


def labels_nats(found, y):
  logits = found.logits if isinstance(found, Outputs) else found
  return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=-1)[:, 0]


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
  assert not _same_tree(params(before), params(after)) and "outer/loss" not in shown[0]


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
  assert not _same_tree(params(after), given.params)


def test_views_may_differ_and_have_other_numbers_of_rows():

  def views(key, batch):
    return jnp.concatenate([batch.x, -batch.x]), 2 * batch.x

  def agree(view):
    first, second = jnp.split(view.student.logits, 2)
    return ((first - second) ** 2).sum(-1) + ((view.teacher.logits - first) ** 2).sum(-1)

  (before, _), shown = run(
    build(Recipe({"agree": Term(agree)}, augmented_inputs=views), optimizer=optax.sgd(0.0)), rows=WHOLE
  )
  first, second = (np.asarray(apply(params(before), s * X).logits) for s in (1, -1))
  want = ((first - second) ** 2).sum(-1) + ((np.asarray(apply(TEACHER, 2 * X).logits) - first) ** 2).sum(-1)
  assert shown[0]["loss/agree"] == pytest.approx(want.mean(), rel=1e-5)


def test_both_networks_see_the_same_augmented_pixels_and_terms_the_plain_batch():
  shift = Augmentation(lambda key, shape: jax.random.normal(key, (shape[0], 1)), lambda draw, x: x + draw)
  shown_inputs = Network(init, lambda p, x, **options: apply(p, x, **options)._replace(embedding=x))

  def teacher(arrays, key, batch, record, step):
    return (Outputs(apply(arrays, batch.x).logits, batch.x),)

  def metrics(view):
    moved = view.student.embedding - view.batch.x
    return {
      "apart": jnp.abs(view.student.embedding - view.teacher.embedding).max(),
      "moved": jnp.abs(moved).min(),
      "spread": jnp.std(moved[:, 0]),
      "named": jnp.mean(view.batch.ids == 100 + view.rows),
      "plain": jnp.abs(view.batch.x - DATA.x[view.rows]).max(),
    }

  options = {"optimizer": SGD, "targets": teacher, "augment": shift}
  _, shown = run(student_method(shown_inputs, kd()._replace(metrics=metrics), **options), epochs=2)
  assert shown[0]["method/apart"] == shown[0]["method/plain"] == 0 and shown[0]["method/named"] == 1
  assert shown[0]["method/moved"] > 0 and shown[0]["method/spread"] > 0.1
  assert shown[0]["method/spread"] != shown[1]["method/spread"]


def test_weights_and_metrics_know_the_epoch_with_its_fraction():
  recipe = Recipe(
    {"one": Term(lambda view: view.student.logits[:, 0] * 0 + 1, lambda now: now)},
    metrics=lambda view: {"epoch": view.epoch, "bits": jnp.int32(3)},
  )
  _, shown = run(build(recipe), epochs=2)
  assert [one["method/epoch"] for one in shown] == pytest.approx([1 / 3, 4 / 3])
  assert shown[0]["method/bits"] == 3.0 and shown[0]["loss/one"] == 1.0  # unweighted


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


def test_a_student_in_passes_takes_the_moments_of_each_part_by_itself():
  """Batch norm takes a factor of all pixels away, so images and the same ones three times as bright come out alike."""
  network = models.build("convnet_bn", num_classes=CLASSES, image_shape=(2, 2, 1), width=3, depth=1)
  data = DATA._replace(x=jnp.float32(RNG.normal(size=(N, 2, 2, 1))))

  def gap(view):
    first, second = jnp.split(view.student.logits, 2)
    return {"gap": jnp.max(jnp.abs(first - second))}

  def step(passes):
    recipe = Recipe(
      {"none": Term(lambda view: jnp.zeros(N))},
      augmented_inputs=lambda key, batch: (jnp.concatenate([batch.x, 3 * batch.x]),) * 2,
      passes=passes,
      metrics=gap,
    )
    method = student_method(network, recipe, optimizer=SGD)
    state = method.init(KEY, inputs(data=data))
    return state, *jax.jit(method.step)(KEY, state, inputs(data=data))

  (start, parts, shown), (_, whole, shown_whole) = step(2), step(1)
  assert float(shown["method/gap"]) < 1e-3 < 0.05 < float(shown_whole["method/gap"])
  # each part moves the running variance by a tenth: the first to its own, the second to nine times that
  first = network.apply(start.roles["student"].params, data.x, stats=start.stats["student"])
  own = first.norm_inputs["norm0"][1] * (4 * N / (4 * N - 1))
  found = parts.stats["student"]["norm0"]["var"]
  np.testing.assert_allclose(found, 0.9 * (0.9 + 0.1 * own) + 0.1 * 9 * own, rtol=1e-4)
  assert not np.allclose(found, whole.stats["student"]["norm0"]["var"], rtol=1e-2)
  assert jax.tree.structure(parts) == jax.tree.structure(start)
