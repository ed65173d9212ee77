"""Recipes of features and relations: their terms on hand-made views against NumPy float64, and what they train."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from updates import update_of

from jdistill import models
from jdistill.base import Batch, Outputs, UserError
from jdistill.methods.knowledge import StepOutputs, student_method
from jdistill.methods.knowledge.contrastive import crd, crd_inbatch
from jdistill.methods.knowledge.feature import at, fitnets, reviewkd
from jdistill.methods.knowledge.relation import rkd
from jdistill.methods.optimizers import make_optimizer
from jdistill.teachers.frozen import committee

RNG = np.random.default_rng(4)
LABELS = np.array([0, 2, 1, 1])


def outputs(channels, width, places=(2, 2)):
  taps = {f"block{i}": jnp.float32(RNG.normal(size=(4, *places, c))) for i, c in enumerate(channels)}
  return Outputs(jnp.float32(RNG.normal(size=(4, 3))), jnp.float32(RNG.normal(size=(4, width))), taps)


STUDENT, TEACHER = outputs((2, 3, 2), 5), outputs((4, 5, 4), 6)


def view(connectors=(), epoch=0.0, memory=(), rows=(0, 1, 2, 3), where=(True,) * 4, key=0, **changes):
  batch = Batch(jnp.zeros((4, 1)), jnp.int32(LABELS), jnp.arange(4, dtype=jnp.int32))
  whole = StepOutputs(
    batch=batch,
    student=STUDENT,
    teachers=(TEACHER,),
    connectors=dict(connectors),
    params={},
    memory=memory,
    constants=(),
    where=jnp.asarray(where),
    epoch=jnp.float32(epoch),
    key=jax.random.key(key),
    rows=jnp.int32(rows),
  )
  return whole._replace(**changes)


def value(recipe, term, shown):
  return np.asarray(jax.jit(recipe.terms[term].value)(shown))


def weight(recipe, term, epoch=0.0):
  found = recipe.terms[term].weight
  return float(found(jnp.float32(epoch))) if callable(found) else found


def cross_entropy():
  z = np.float64(STUDENT.logits)
  return np.log(np.exp(z).sum(1)) - z[np.arange(4), LABELS]


def test_fitnets_compares_the_regressed_tap():
  recipe = fitnets(tap="block0:block1")
  hint = jnp.float32(RNG.normal(size=(4, 2, 2, 5)))
  got = value(recipe, "hint", view({"regressor": hint}))
  want = np.square(np.float64(hint) - np.float64(TEACHER.taps["block1"])).mean((1, 2, 3))
  np.testing.assert_allclose(got, want, rtol=1e-5)
  np.testing.assert_allclose(value(recipe, "ce", view()), cross_entropy(), rtol=1e-5)
  assert list(recipe.terms) == ["ce", "hint"] and weight(recipe, "hint") == 100
  assert list(fitnets(kd_weight=0.5).terms) == ["ce", "kd", "hint"]


def test_fitnets_in_two_stages():
  recipe = fitnets(hint_epochs=3.0, kd_weight=2.0)
  weights = {name: [weight(recipe, name, epoch) for epoch in (0, 2.9, 3, 50)] for name in recipe.terms}
  assert weights == {"ce": [0, 0, 1, 1], "kd": [0, 0, 2, 2], "hint": [100, 100, 0, 0]}


def test_at_adds_up_the_stages_without_the_first():
  def attention(x):
    v = np.square(np.float64(x)).mean(-1).reshape(4, -1)
    return v / np.linalg.norm(v, axis=1, keepdims=True)

  one = {
    name: np.square(attention(STUDENT.taps[name]) - attention(TEACHER.taps[name])).mean(1) for name in STUDENT.taps
  }
  kinds = at(), at(taps="all"), at(taps="block0")
  stages, everything, first = jax.jit(lambda shown: [kind.terms["at"].value(shown) for kind in kinds])(view())
  np.testing.assert_allclose(stages, one["block1"] + one["block2"], rtol=1e-4)
  np.testing.assert_allclose(everything, sum(one.values()), rtol=1e-4)
  np.testing.assert_allclose(first, one["block0"], rtol=1e-4)
  assert weight(at(), "at") == 1000
  vectors = STUDENT._replace(taps={"block0": STUDENT.embedding})
  with pytest.raises(UserError, match=r"block0 has no places to attend to"):
    at(taps="all").terms["at"].value(view(student=vectors, teachers=(vectors,)))


def test_reviewkd_warms_up_and_knows_the_pooled_vector():
  recipe = reviewkd(review_weight=6.0)
  levels = [jnp.float32(RNG.normal(size=shape)) for shape in ((4, 2, 2, 5), (4, 2, 2, 4), (4, 1, 1, 6))]
  targets = [np.float64(x) for x in (TEACHER.taps["block1"], TEACHER.taps["block2"], TEACHER.embedding)]
  want = 0.0
  for x, t in zip(map(np.float64, levels), targets, strict=True):
    x = x.reshape(t.shape)
    full = np.square(x - t).reshape(4, -1).mean(1)
    if t.ndim == 4:  # 2x2 maps: pooling to one place has the weight 1/2
      pooled = np.square((x - t).mean((1, 2))).mean(-1)
      full = (full + pooled / 2) / 1.5
    want = want + full
  np.testing.assert_allclose(value(recipe, "review", view({"fusion": tuple(levels)})), want, rtol=1e-4)
  assert [weight(recipe, "review", epoch) for epoch in (0, 10, 20, 99)] == [0, 3, 6, 6]


def test_rkd_ignores_where_the_students_embeddings_lie_and_padding():
  turn = np.linalg.qr(RNG.normal(size=(6, 6)))[0]
  moved = STUDENT._replace(embedding=jnp.float32(3 * np.float64(TEACHER.embedding) @ turn + 1))
  recipe = rkd()
  assert {name: weight(recipe, name) for name in recipe.terms} == {"ce": 1.0, "distance": 25.0, "angle": 50.0}
  both = jax.jit(lambda shown: [recipe.terms[name].value(shown) for name in ("distance", "angle")])
  np.testing.assert_allclose(both(view(student=moved)), 0, atol=1e-5)
  assert (np.asarray(both(view())) > 1e-3).all()
  wild = STUDENT._replace(embedding=STUDENT.embedding.at[3].set(1e3))
  padded = [both(view(student=student, where=(True, True, True, False))) for student in (STUDENT, wild)]
  np.testing.assert_array_equal(*padded)


def heads(features=3):
  return {name: jnp.float32(RNG.normal(size=(4, features))) for name in ("student_head", "teacher_head")}


CRD = crd(features=3, negatives=64, bank_momentum=0.25)
MEMORY = CRD.memory.init(jax.random.key(1), 9, None)


@jax.jit
def crd_step(shown):
  return CRD.terms["crd"].value(shown), CRD.memory.update(shown)


def test_crd_remembers_what_it_saw_and_draws_negatives_from_that_alone():
  start = MEMORY
  np.testing.assert_array_equal(start.labels, -1)
  parts, rows = heads(), (7, 0, 3, 8)
  first = crd_step(view(parts, memory=start, rows=rows))[1]
  np.testing.assert_array_equal(first.labels, [2, -1, -1, 1, -1, -1, -1, 0, 1])
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
  for bank, old, head in (
    (first.banks.bank_s, start.banks.bank_s, parts["student_head"]),
    (first.banks.bank_t, start.banks.bank_t, parts["teacher_head"]),
  ):
    want = np.float64(old)
    want[list(rows)] = unit(0.25 * want[list(rows)] + 0.75 * unit(np.float64(head)))
    np.testing.assert_allclose(bank, want, rtol=1e-5, atol=1e-6)
  # the entries that were never seen are nobody's negatives: the loss does not know them
  spoiled = first.banks._replace(bank_s=first.banks.bank_s.at[1].set(9.0), bank_t=first.banks.bank_t.at[4].set(9.0))
  after = lambda banks: crd_step(view(parts, memory=first._replace(banks=banks), rows=rows))[0]  # noqa: E731
  losses = [after(banks) for banks in (first.banks, spoiled)]
  np.testing.assert_array_equal(*losses)
  touched = first.banks._replace(bank_s=first.banks.bank_s.at[7].set(9.0))
  assert (np.asarray(after(touched)) != losses[0]).any()


def test_crds_constants_are_those_of_the_first_batch():
  assert np.isneginf(MEMORY.banks.log_z_s) and np.isneginf(MEMORY.banks.log_z_t)
  first = crd_step(view(heads(), memory=MEMORY))[1]
  second = crd_step(view(heads(), memory=first, rows=(4, 5, 6, 8), key=1))[1]
  assert np.isfinite(first.banks.log_z_s) and first.banks.log_z_s == second.banks.log_z_s
  assert first.banks.log_z_t == second.banks.log_z_t


def test_padding_leaves_crds_memory_alone():
  loss, found = crd_step(view(heads(), memory=MEMORY, where=(True, True, True, False)))
  np.testing.assert_array_equal(found.labels, [0, 2, 1, *(-1,) * 6])
  np.testing.assert_array_equal(found.banks.bank_s[3:], MEMORY.banks.bank_s[3:])
  assert loss[3] == 0 and (loss[:3] > 0).all()


def test_crd_without_a_memory_wants_the_two_views_of_an_example_alike():
  recipe = crd_inbatch(contrast_temperature=0.5)
  z = RNG.normal(size=(8, 3))
  z /= np.linalg.norm(z, axis=1, keepdims=True)
  scores = z @ z.T / 0.5
  np.fill_diagonal(scores, -np.inf)
  each = np.log(np.exp(scores).sum(1)) - np.array([scores[i, (i + 4) % 8] for i in range(8)])
  parts = {"student_head": jnp.float32(z[:4]), "teacher_head": jnp.float32(z[4:])}
  np.testing.assert_allclose(value(recipe, "contrast", view(parts)), (each[:4] + each[4:]) / 2, rtol=1e-4)
  assert recipe.memory is None


def trained(recipe, student_widths=(4, 3)):
  """One update on six of twelve examples; the student's and the roles' parameters before and after."""
  shape = {"num_classes": 3, "image_shape": (2, 2, 1)}
  network, teacher = models.build("mlp", widths=student_widths, **shape), models.build("mlp", widths=(6, 5), **shape)
  frozen = committee([teacher], [teacher.init(jax.random.key(5))])
  data = Batch(
    jnp.float32(RNG.normal(size=(12, 2, 2, 1))), jnp.arange(12, dtype=jnp.int32) % 3, jnp.arange(12, dtype=jnp.int32)
  )
  method = student_method(
    network, recipe, optimizer=make_optimizer("sgd", 0.1), targets=frozen.targets, num_examples=12
  )
  update = update_of(data, [8, 2, 5, 0, 7, 1], targets=frozen.arrays)
  state = jax.jit(method.init)(jax.random.key(0), update)
  after, metrics = jax.jit(method.step)(jax.random.key(1), state, update)
  return state, after, metrics


def moved(before, after, role):
  return [bool((a != b).any()) for a, b in zip(*map(jax.tree.leaves, (before.roles[role].params,
          after.roles[role].params)), strict=True)]  # fmt: skip


def test_both_heads_of_crd_learn_and_only_the_batch_is_remembered():
  before, after, metrics = trained(crd(features=4, negatives=5))
  assert all(moved(before, after, "student_head")) and all(moved(before, after, "teacher_head"))
  labels = np.asarray(after.memory.labels)
  np.testing.assert_array_equal(labels, [0, 1, 2, -1, -1, 2, -1, 1, 2, -1, -1, -1])
  np.testing.assert_array_equal(after.memory.banks.bank_t[9:], before.memory.banks.bank_t[9:])
  assert np.isfinite(metrics["loss/crd"])


def test_a_hint_alone_reaches_the_layers_below_its_tap_only():
  before, after, _ = trained(fitnets(tap="block0", hint_epochs=5.0))
  changed = {
    name: bool((before.roles["student"].params[name]["kernel"] != after.roles["student"].params[name]["kernel"]).any())
    for name in before.roles["student"].params
  }
  assert changed == {"dense0": True, "dense1": False, "head": False} and all(moved(before, after, "regressor")[:2])


def test_the_review_trains_its_fusion_on_vectors_too():
  before, after, metrics = trained(reviewkd(taps="all", warmup_epochs=0.0))
  assert any(moved(before, after, "fusion")) and np.isfinite(metrics["loss/review"])


def test_a_missing_tap_stops_a_student_with_the_list():
  with pytest.raises(UserError, match=r"tap='block9': the teacher has no such tap.*block0, block1, embedding"):
    trained(fitnets(tap="block0:block9"))
