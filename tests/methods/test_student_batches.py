"""What an update makes of its batch: weights, chunks, records, inputs, labels, and what a data policy sees."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from two_layers import (
  CLASSES,
  DATA,
  KEY,
  NETWORK,
  RNG,
  SGD,
  TEACHER,
  WHOLE,
  N,
  X,
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
  softmax,
  taught,
  watched,
)

from jdistill import models
from jdistill.base import Augmentation, Network, Outputs
from jdistill.methods.knowledge import Recipe, Sharpness, Term, look, student_method
from jdistill.methods.knowledge.logits import ce, kd
from jdistill.ops.gsam import gsam_gradient


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
