"""ND: its term and its controls against NumPy float64, the bases it goes with, and the class means it wants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from updates import update_of

from jdistill import models
from jdistill.base import Batch, Outputs, UserError
from jdistill.methods.knowledge import StepOutputs, student_method
from jdistill.methods.knowledge.nd import nd, teacher_class_means
from jdistill.methods.optimizers import make_optimizer
from jdistill.teachers.frozen import ask, committee

RNG = np.random.default_rng(6)
S, T, MEANS = RNG.normal(size=(4, 3)) * [[3], [0.1], [1], [1]], RNG.normal(size=(4, 3)), RNG.normal(size=(3, 3))
LABELS = np.array([0, 2, 1, 1])


def view(epoch=0.0):
  student, teacher = (Outputs(jnp.float32(RNG.normal(size=(4, 3))), jnp.float32(x)) for x in (S, T))
  return StepOutputs(
    batch=Batch(jnp.zeros((4, 1)), jnp.int32(LABELS), jnp.arange(4, dtype=jnp.int32)),
    student=student,
    teachers=(teacher,),
    connectors={"embedding_map": jnp.float32(S)},
    params={},
    memory=(),
    constants=jnp.float32(MEANS),
    where=jnp.array([True, True, True, False]),
    epoch=jnp.float32(epoch),
    key=jax.random.key(0),
    rows=jnp.arange(4, dtype=jnp.int32),
  )


def unit(x):
  return x / np.linalg.norm(x, axis=1, keepdims=True)


NORMS, OTHER = np.linalg.norm(S, axis=1), np.linalg.norm(T, axis=1)
TOWARDS = unit(MEANS)[LABELS]
WANTED = {
  "nd": 1 - (S * TOWARDS).sum(1) / np.maximum(NORMS, OTHER),
  "direction": 1 - (unit(S) * TOWARDS).sum(1),
  "norm": 1 - NORMS / np.maximum(NORMS, OTHER),
  "example": 1 - (unit(S) * unit(T)).sum(1),
}


@pytest.mark.parametrize("alignment", WANTED)
def test_the_term_and_its_controls(alignment):
  got = jax.jit(nd(alignment=alignment).terms["nd"].value)(view())
  np.testing.assert_allclose(got, WANTED[alignment], rtol=1e-5, atol=1e-6)


def test_metrics_are_means_over_the_examples_without_padding():
  got = {name: float(value) for name, value in nd().metrics(view()).items()}
  assert got["norm"] == pytest.approx(NORMS[:3].mean(), rel=1e-5)
  assert got["norm_ratio"] == pytest.approx((NORMS / OTHER)[:3].mean(), rel=1e-5)
  assert got["cosine"] == pytest.approx((unit(S) * TOWARDS).sum(1)[:3].mean(), rel=1e-4)


@pytest.mark.parametrize(
  ("base", "terms"),
  [("kd", ["ce", "kd"]), ("dkd", ["ce", "dkd"]), ("dist", ["ce", "dist"]), ("reviewkd", ["ce", "review"])],
)
def test_every_base_warms_up_to_its_weight_and_nd_does_not(base, terms):
  recipe = nd(base=base, kd_weight=3.0, nd_weight=0.5)
  assert list(recipe.terms) == [*terms, "nd"]
  assert [float(recipe.terms[terms[1]].weight(jnp.float32(e))) for e in (0, 10, 20, 30)] == [0, 1.5, 3, 3]
  assert recipe.terms["nd"].weight == 0.5 and recipe.terms["ce"].weight == 1.0
  assert ("fusion" in recipe.connectors) == (base == "reviewkd")


def test_weights_of_the_bases_reach_them():
  def value(**options):
    return np.asarray(jax.jit(nd(**options).terms[options["base"]].value)(VIEW))

  one = value(base="dkd", alpha=1.0, beta=0.0)
  np.testing.assert_allclose(value(base="dkd", alpha=2.0, beta=0.0), 2 * one, rtol=1e-5)
  np.testing.assert_allclose(value(base="dkd"), one + 8 * value(base="dkd", alpha=0.0, beta=1.0), rtol=1e-4)
  parts = value(base="dist", beta=1.0, gamma=0.0), value(base="dist", beta=0.0, gamma=1.0)
  np.testing.assert_allclose(value(base="dist"), parts[0] + parts[1], rtol=1e-4)


VIEW = view()


def test_unknown_words_are_refused():
  with pytest.raises(UserError, match=r"method.base='fkd': unknown; did you mean 'kd' or 'dkd'"):
    nd(base="fkd")
  with pytest.raises(UserError, match=r"method.alignment='up': unknown"):
    nd(alignment="up")


def test_class_means_want_every_class_and_a_direction():
  embedding = jnp.float32([[1, 3], [3, 5], [0, 2]])
  outputs = (Outputs(jnp.zeros((3, 2)), embedding),)
  np.testing.assert_array_equal(teacher_class_means(outputs, jnp.int32([1, 1, 0]), ()), [[0, 2], [2, 4]])
  wider = (Outputs(jnp.zeros((3, 5)), embedding),)
  with pytest.raises(UserError, match=r"no example of the classes \[2, 4\]"):
    teacher_class_means(wider, jnp.int32([1, 3, 0]), ())
  with pytest.raises(UserError, match=r"classes \[0\] are zero"):
    teacher_class_means((Outputs(jnp.zeros((3, 2)), embedding.at[2].set(0.0)),), jnp.int32([1, 1, 0]), ())


def test_widths_decide_whether_there_is_a_map_and_the_classifier_does_not_use_it():
  shape = {"num_classes": 3, "image_shape": (2, 2, 1)}
  teacher = models.build("mlp", widths=(6,), **shape)
  frozen = committee([teacher], [teacher.init(jax.random.key(5))])
  x, y = jnp.float32(RNG.normal(size=(12, 2, 2, 1))), jnp.arange(12, dtype=jnp.int32) % 3
  data = Batch(x, y, jnp.arange(12, dtype=jnp.int32))
  recipe = nd()
  means = recipe.prepare(ask(frozen, x, data.ids), y, frozen.arrays)
  update = update_of(data, targets=frozen.arrays, constants=means)

  def method(width):
    network = models.build("mlp", widths=(width,), **shape)
    return student_method(network, recipe, optimizer=make_optimizer("sgd", 0.1), targets=frozen.targets)

  assert not jax.tree.leaves(jax.eval_shape(method(6).init, jax.random.key(0), update).roles["embedding_map"].params)
  mapped = method(4)
  before = jax.jit(mapped.init)(jax.random.key(0), update)
  after, metrics = jax.jit(mapped.step)(jax.random.key(1), before, update)
  assert before.roles["embedding_map"].params["dense"]["kernel"].shape == (4, 6)
  assert (before.roles["embedding_map"].params["dense"]["kernel"] !=
          after.roles["embedding_map"].params["dense"]["kernel"]).any()  # fmt: skip
  assert {"method/norm", "method/norm_ratio", "method/cosine"} <= set(metrics)
  assert set(mapped.result(after).variables) == {"student"}
