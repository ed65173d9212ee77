"""The builder of students against plain loops in NumPy, and every promise of a recipe on a network of two layers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jdistill import models
from jdistill.base import Augmentation, Batch, Connector, Network, Outputs, Variables
from jdistill.methods.knowledge import Epoch, Memory, Order, Outer, Recipe, Term, predictor, student_method
from jdistill.methods.knowledge.logits import ce, kd
from jdistill.methods.optimizers import make_optimizer

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


def taught(arrays, x, ids):
  return (apply(arrays, x),)


def build(recipe, **options):
  return student_method(NETWORK, recipe, **({"optimizer": SGD, "batch_size": BATCH, "teacher": taught} | options))


def epoch(number=0, **options):
  return Epoch(jnp.int32(number), **({"data": DATA, "members": ALL, "teacher": TEACHER} | options))


def run(method, epochs=1, state=None, **options):
  """The states after each epoch, the first of them the start, and the metrics of each."""
  states = [jax.jit(method.init)(KEY, epoch(**options)) if state is None else state]
  step, shown = jax.jit(method.step), []
  for number in range(epochs):
    state, metrics = step(jax.random.fold_in(KEY, number), states[-1], epoch(number, **options))
    states.append(state)
    shown.append({name: float(value) for name, value in metrics.items()})
  return states, shown


def watched(recipe, steps=STEPS, batch=BATCH):
  """The recipe with a memory that writes down which rows were seen."""

  def update(view):
    seen, count = view.memory
    return seen.at[count % steps].set(view.rows), count + 1

  return recipe._replace(memory=Memory(lambda key, n: (jnp.full((steps, batch), -1), jnp.int32(0)), update))


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def close(a, b, rtol=2e-5):
  jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, rtol=rtol, atol=2e-6), a, b)


def params(state, role="student"):
  return state.roles[role].params


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

  def rate(step):
    return 0.2 / (1 + jnp.float32(step))

  recipe = watched(kd(temperature=3.0, ce_weight=0.3, kd_weight=0.7))
  method = build(recipe, optimizer=make_optimizer("sgd", rate, momentum=0.9, weight_decay=0.01))
  states, shown = run(method, epochs=2)
  p = {name: np.float64(value) for name, value in params(states[0]).items()}
  velocity, step = dict.fromkeys(p, 0.0), 0
  for number, state in enumerate(states[1:]):
    values = []
    for rows in np.asarray(state.memory[0]):
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


def test_an_epoch_draws_its_members_without_replacement():
  members = jnp.int32([1, 3, 4, 5, 7, 8, 9, 10, 11, 12])
  states, _ = run(build(watched(ce(), steps=2)), epochs=3, members=members)
  orders = [np.asarray(state.memory[0]) for state in states[1:]]
  for order in orders:
    assert len(np.unique(order)) == 8 and np.isin(order, members).all()  # the incomplete last batch is left out
  assert not np.array_equal(orders[0], orders[1]) and len(np.unique(orders)) > 8


def test_fewer_members_than_a_batch_are_one_batch():
  states, _ = run(build(watched(ce(), 1, 3), batch_size=50), members=jnp.int32([2, 5, 6]))
  assert sorted(np.asarray(states[1].memory[0][0])) == [2, 5, 6]


def test_the_average_follows_the_student_from_its_start():
  method = build(ce(), batch_size=N, ema_decay=0.75)
  states, _ = run(method, epochs=3)
  average = params(states[0])
  same(method.result(states[0]).variables["student"].params, average)
  for state in states[1:]:
    average = jax.tree.map(lambda a, b: 0.75 * a + 0.25 * b, average, params(state))
    close(method.result(state).variables["student"].params, average)
  same(build(ce(), batch_size=N).result(states[-1]).variables["student"].params, params(states[-1]))


def test_bfloat16_is_for_computing_and_not_for_keeping():
  seen = []

  def spy(p, x, **options):
    seen.append({leaf.dtype for leaf in jax.tree.leaves((p, x))})
    return apply(p, x, **options)

  recipe = kd()
  options = {"optimizer": make_optimizer("sgd", 0.1), "batch_size": BATCH, "teacher": taught, "ema_decay": 0.5}
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
  method = student_method(network, ce(), optimizer=SGD, batch_size=4, precision="bfloat16", ema_decay=0.9)
  before = jax.eval_shape(method.init, KEY, Epoch(jnp.int32(0), data, jnp.arange(4)))
  after, _ = jax.eval_shape(method.step, KEY, before, Epoch(jnp.int32(0), data, jnp.arange(4)))
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


def ordered(*batches):
  """An order that is the same in every epoch; an empty batch is a step without examples."""
  indices = jnp.int32([batch or [0] * BATCH for batch in batches])
  mask = jnp.asarray([[bool(batch)] * BATCH for batch in batches])
  return lambda key, number, look, members, size: Order(indices, mask, {"some": jnp.float32(0.5)})


FIRST, SECOND = [0, 1, 2, 3], [7, 6, 5, 4]


def test_an_empty_step_changes_nothing():
  momentum = {"optimizer": make_optimizer("sgd", 0.1, momentum=0.9), "ema_decay": 0.5}
  recipe = with_lines(watched(ce(), 2), "line")
  (_, without), plain = run(build(recipe._replace(order=ordered(FIRST, SECOND)), **momentum))
  (_, between), gaps = run(build(recipe._replace(order=ordered([], FIRST, [], SECOND, [])), **momentum))
  close(between, without, rtol=1e-6)
  assert gaps[0] == pytest.approx(plain[0], rel=1e-5)
  assert plain[0]["order/some"] == 0.5


def test_rates_are_those_of_the_epoch_whatever_steps_were_empty():
  later = {"optimizer": make_optimizer("sgd", lambda step: 0.1 * (step >= 2))}
  moved = {}
  for label, batches in (("early", (FIRST, SECOND, [])), ("late", ([], [], FIRST))):
    states, _ = run(build(ce()._replace(order=ordered(*batches)), **later))
    params = [state.roles["student"].params for state in states[:2]]
    moved[label] = max(float(jnp.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, params), strict=True))
  assert moved["early"] == 0 and moved["late"] > 1e-3


def test_an_epoch_without_any_example_leaves_everything():
  states, shown = run(build(ce()._replace(order=ordered([], []))))
  same(states[1], states[0])
  assert shown[0]["loss/ce"] == 0


def test_a_loss_that_is_not_finite_shows_whatever_the_order():
  """The mean over the steps that had examples must not leave out those that diverged."""
  bad = Term(lambda view: jnp.where(view.rows[0] == SECOND[0], jnp.nan, 1.0))
  recipe = ce()._replace(order=ordered(FIRST, SECOND, []), terms={"bad": bad})
  assert np.isnan(run(build(recipe))[1][0]["loss/bad"])


def test_masked_examples_do_not_count():
  half = Order(jnp.int32([FIRST]), jnp.asarray([[True, True, False, False]]))
  whole = Order(jnp.int32([[0, 1]]), jnp.ones((1, 2), bool))
  (_, a), shown = run(build(kd()._replace(order=lambda *_: half)))
  (_, b), want = run(build(kd()._replace(order=lambda *_: whole)))
  close(params(a), params(b))
  assert shown[0] == pytest.approx(want[0], rel=1e-5)


def test_an_order_sees_the_student_and_the_teacher_as_they_are():
  found = {}

  def order(key, number, look, members, size):
    rows = jnp.arange(N)
    found.update(number=number, members=members, size=size)
    gap = jnp.abs(look.teacher(rows) - look.student(rows)).sum() + look.constants
    return Order(jnp.int32([FIRST]), jnp.ones((1, BATCH), bool), {"gap": gap})

  states, shown = run(build(ce()._replace(order=order)), constants=jnp.float32(100.0))
  want = np.abs(np.asarray(apply(TEACHER, X).logits - apply(params(states[0]), X).logits)).sum() + 100
  assert shown[0]["order/gap"] == pytest.approx(want, rel=1e-5)
  assert found["size"] == BATCH and found["members"].shape == (N,)


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
  method = build(controlled(), batch_size=N, optimizers={"mixer": optax.sgd(5.0)})
  (before, after), shown = run(method, held_out=HELD_OUT)
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


def test_methods_start_from_the_same_student_and_see_the_same_batches():
  plain, others = watched(ce()), with_lines(watched(kd()), "first", "second")
  recipes = [plain, others, watched(controlled(through=False))]
  ran = [run(build(recipe, batch_size=BATCH))[0] for recipe in recipes]
  for start, end in ran[1:]:
    same(params(start), params(ran[0][0]))
    same(end.memory, ran[0][1].memory)
  assert not np.array_equal(params(ran[0][1])["a"], params(ran[1][1])["a"])


def test_a_student_may_start_from_given_parameters():
  given = init(jax.random.key(77))
  method = build(ce(), batch_size=N, ema_decay=0.5, optimizer=make_optimizer("adam", 0.1))
  (before, after), _ = run(method, start=given)
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
    build(Recipe({"agree": Term(agree)}, augmented_inputs=views), batch_size=N, optimizer=optax.sgd(0.0))
  )
  first, second = (np.asarray(apply(params(before), s * X).logits) for s in (1, -1))
  want = ((first - second) ** 2).sum(-1) + ((np.asarray(apply(TEACHER, 2 * X).logits) - first) ** 2).sum(-1)
  assert shown[0]["loss/agree"] == pytest.approx(want.mean(), rel=1e-5)


def test_both_networks_see_the_same_augmented_pixels_and_terms_the_plain_batch():
  shift = Augmentation(lambda key, shape: jax.random.normal(key, (shape[0], 1)), lambda draw, x: x + draw)
  inputs = Network(init, lambda p, x, **options: apply(p, x, **options)._replace(embedding=x))

  def teacher(arrays, x, ids):
    return (Outputs(apply(arrays, x).logits, x),)

  def metrics(view):
    moved = view.student.embedding - view.batch.x
    return {
      "apart": jnp.abs(view.student.embedding - view.teacher.embedding).max(),
      "moved": jnp.abs(moved).min(),
      "spread": jnp.std(moved[:, 0]),
      "named": jnp.mean(view.batch.ids == 100 + view.rows),
      "plain": jnp.abs(view.batch.x - DATA.x[view.rows]).max(),
    }

  options = {"optimizer": SGD, "batch_size": BATCH, "teacher": teacher, "augment": shift}
  _, shown = run(student_method(inputs, kd()._replace(metrics=metrics), **options), epochs=2)
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
  _, shown = run(build(recipe, teacher=None), teacher=())
  assert shown[0]["method/teachers"] == 0


def test_one_program_serves_all_numbers_of_a_method():
  """With `rebuild`, other numbers give what a recipe of these numbers gives, and compile nothing."""
  rebuild = lambda options: kd(ce_weight=0.5, **options)  # noqa: E731
  method = build(rebuild({"kd_weight": 1.0, "temperature": 2.0}), rebuild=rebuild)
  step = jax.jit(method.step)
  for kd_weight, temperature in ((1.0, 2.0), (3.0, 5.0)):
    options = {"kd_weight": jnp.float32(kd_weight), "temperature": jnp.float32(temperature)}
    start = method.init(KEY, epoch(options=options))
    found, shown = step(KEY, start, epoch(options=options))
    static = build(rebuild({"kd_weight": kd_weight, "temperature": temperature}))
    want, wanted = jax.jit(static.step)(KEY, start, epoch())
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
    method = student_method(network, recipe, optimizer=SGD, batch_size=N)
    state = method.init(KEY, epoch(data=data))
    return state, *jax.jit(method.step)(KEY, state, epoch(data=data))

  (start, parts, shown), (_, whole, shown_whole) = step(2), step(1)
  assert float(shown["method/gap"]) < 1e-3 < 0.05 < float(shown_whole["method/gap"])
  # each part moves the running variance by a tenth: the first to its own, the second to nine times that
  first = network.apply(start.roles["student"].params, data.x, stats=start.stats["student"])
  own = first.norm_inputs["norm0"][1] * (4 * N / (4 * N - 1))
  found = parts.stats["student"]["norm0"]["var"]
  np.testing.assert_allclose(found, 0.9 * (0.9 + 0.1 * own) + 0.1 * 9 * own, rtol=1e-4)
  assert not np.allclose(found, whole.stats["student"]["norm0"]["var"], rtol=1e-2)
  assert jax.tree.structure(parts) == jax.tree.structure(start)
