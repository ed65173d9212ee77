"""TRG: its terms against NumPy in float64, invariances, sampled positions, schedules, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from jdistill import ops
from jdistill.base import Batch, Outputs, UserError
from jdistill.methods.knowledge import StepOutputs
from jdistill.methods.knowledge.trg import cosine, token_pair, trg

RNG = np.random.default_rng(11)
STUDENT, TEACHER = RNG.normal(size=(3, 4, 4, 5)), RNG.normal(size=(3, 2, 2, 6))
POOLED = STUDENT.reshape(3, 2, 2, 2, 2, 5).mean((2, 4)).reshape(3, 4, 5)  # in the size of the teacher's map
TOKENS = TEACHER.reshape(3, 4, 6)


def outputs(tap, name="block1"):
  tap = jnp.float32(tap)
  return Outputs(jnp.zeros((tap.shape[0], 4)), jnp.zeros((tap.shape[0], 2)), {"block0": tap[:, :1], name: tap})


def view(student=STUDENT, teacher=TEACHER, connectors=None, epoch=0.0, where=None):
  size = len(student)
  rows = jnp.arange(size, dtype=jnp.int32)
  batch = Batch(jnp.zeros((size, 1)), rows % 4, rows)
  where = jnp.ones(size, bool) if where is None else jnp.asarray(where)
  key = jax.random.key(4)
  outs = outputs(student), (outputs(teacher),)
  return StepOutputs(batch, *outs, connectors or {}, {}, (), (), where, jnp.float32(epoch), key, rows)


def affinity(x, k):
  """Edges from everyone's `k` nearest; the width is the median squared distance of all pairs."""
  squared = ((x[:, None] - x[None]) ** 2).sum(-1)
  width = np.median(squared[~np.eye(len(x), dtype=bool)])
  out = np.zeros_like(squared)
  for j in range(len(x)):
    others = [i for i in np.argsort(squared[j], kind="stable") if i != j]
    out[others[:k], j] = np.exp(-squared[others[:k], j] / (2 * width))
  return out


def test_the_larger_map_is_averaged_and_cut_into_patches():
  student, teacher = token_pair(outputs(STUDENT), outputs(TEACHER))
  np.testing.assert_allclose(student, POOLED, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(teacher, TOKENS, rtol=1e-6)
  student, teacher = token_pair(outputs(STUDENT), outputs(np.tile(TEACHER, (1, 2, 2, 1))), patch=2)
  assert (student.shape, teacher.shape) == ((3, 4, 20), (3, 4, 24))
  np.testing.assert_allclose(student[0, 1], STUDENT[0, :2, 2:].reshape(-1), rtol=1e-6)


def test_tokens_are_maps_without_their_class_token_and_taps_have_names():
  tokens = np.concatenate([np.full((3, 1, 6), 9.0), TOKENS], axis=1)
  named = outputs(STUDENT, name="other")
  student, teacher = token_pair(named, outputs(tokens), tap="other:block1")
  np.testing.assert_allclose(teacher, TOKENS, rtol=1e-6)
  np.testing.assert_allclose(student, POOLED, rtol=1e-5, atol=1e-6)


def test_an_instance_is_the_mean_over_its_map():
  student, teacher = token_pair(outputs(STUDENT), outputs(TEACHER), level="instance")
  np.testing.assert_allclose(student[:, 0], STUDENT.mean((1, 2)), rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(teacher[:, 0], TEACHER.mean((1, 2)), rtol=1e-5, atol=1e-6)
  assert "inner" not in trg(level="instance", tokens=1).terms


@pytest.mark.parametrize("direction", ["student_teacher", "teacher_student"])
def test_local_compares_rows_of_edges_over_the_whole_batch(direction):
  """With all positions sampled, their order within an image does not matter for the mean."""
  found = trg(tokens=4, neighbours=3, direction=direction).terms["local"].value(view())
  rows = [log_softmax(affinity(x.reshape(12, -1), 3), axis=1) for x in (POOLED, TOKENS)]
  first, second = rows if direction == "student_teacher" else rows[::-1]
  want = (np.exp(first) * (first - second)).sum(1).reshape(3, 4).mean(1)
  np.testing.assert_allclose(found, want, rtol=1e-4)


def test_global_tells_tokens_of_all_images_apart():
  projected = RNG.normal(size=(3, 4, 6))
  found = (
    trg(tokens=4, contrast_epochs=10.0).terms["global"].value(view(connectors={"projector": jnp.float32(projected)}))
  )
  a, b = (x.reshape(12, 6) / np.linalg.norm(x.reshape(12, 6), axis=1, keepdims=True) for x in (projected, TOKENS))
  want = -np.diag(log_softmax(a @ b.T / 0.5, axis=1)).reshape(3, 4).mean(1)
  np.testing.assert_allclose(found, want, rtol=1e-4)


def test_inner_compares_attention_among_the_tokens_of_an_image():
  found = trg().terms["inner"].value(view())
  maps = [softmax(x @ x.transpose(0, 2, 1) / np.sqrt(x.shape[-1]), axis=-1) for x in (POOLED, TOKENS)]
  np.testing.assert_allclose(found, ((maps[0] - maps[1]) ** 2).mean((1, 2)), rtol=1e-4)


def test_all_terms_of_a_step_see_the_same_positions():
  """A student whose projected tokens are the teacher's finds each of them, whatever is drawn."""
  recipe = trg(tokens=2, neighbours=2, final_contrast_temperature=0.01, contrast_epochs=1.0)
  same = view(TEACHER, connectors={"projector": jnp.float32(TOKENS)}, epoch=2.0)
  assert float(recipe.terms["global"].value(same).max()) < 1e-3
  np.testing.assert_allclose(recipe.terms["local"].value(same), 0, atol=1e-6)
  student, teacher = ops.sample_tokens(same.key, jnp.float32(POOLED), jnp.float32(TOKENS), 2)
  again, _ = ops.sample_tokens(same.key, jnp.float32(TOKENS), jnp.float32(TOKENS), 2)
  np.testing.assert_array_equal(teacher, again)
  assert student.shape == (6, 5)


def test_turning_all_tokens_of_the_student_changes_neither_local_nor_inner():
  turn, _ = np.linalg.qr(RNG.normal(size=(5, 5)))
  recipe = trg(tokens=3, neighbours=4)
  for name in ("local", "inner"):
    before, after = (np.asarray(recipe.terms[name].value(view(x))) for x in (STUDENT, STUDENT @ turn))
    np.testing.assert_allclose(after, before, rtol=1e-3, atol=1e-7)
    assert before.min() > 1e-5


def test_padding_changes_nothing():
  where = np.array([True, False, True])
  broken = np.where(where[:, None, None, None], STUDENT, 1e3)
  recipe = trg(tokens=3, neighbours=2)
  for name in ("local", "global"):
    parts = [{"projector": jnp.float32(np.resize(x, (3, 4, 6)))} for x in (STUDENT, STUDENT)]
    parts[1]["projector"] = parts[1]["projector"].at[1].set(1e3)
    kept = recipe.terms[name].value(view(where=where, connectors=parts[0]))
    found = recipe.terms[name].value(view(broken, where=where, connectors=parts[1]))
    np.testing.assert_array_equal(np.asarray(found)[where], np.asarray(kept)[where])


def test_the_projector_is_there_where_widths_differ():
  part = trg().connectors["projector"]
  student, teachers = outputs(STUDENT), (outputs(TEACHER),)
  variables = part.init(jax.random.key(0), student, teachers)
  value, _ = part.apply(variables, student, teachers, train=True, key=jax.random.key(0))
  layer = {name: np.asarray(leaf, np.float64) for name, leaf in variables.params["dense"].items()}
  np.testing.assert_allclose(value, POOLED @ layer["kernel"] + layer["bias"], rtol=1e-4, atol=1e-5)
  alike = outputs(TEACHER)
  variables = part.init(jax.random.key(0), alike, teachers)
  value, _ = part.apply(variables, alike, teachers, train=True, key=jax.random.key(0))
  assert variables.params == {}
  np.testing.assert_allclose(value, TOKENS, rtol=1e-6)
  assert trg(global_weight=0.0).connectors == {}


def test_the_contrast_cools_along_a_cosine():
  heat = cosine(0.5, 0.1, 40.0)
  found = [float(heat(jnp.float32(epoch))) for epoch in (0, 10, 20, 40, 99)]
  np.testing.assert_allclose(found, [0.5, 0.1 + 0.4 * (1 + 2**-0.5) / 2, 0.3, 0.1, 0.1], rtol=1e-5)


@pytest.mark.parametrize(
  ("options", "complaint"),
  [
    ({"level": "pixel"}, "method.level='pixel': unknown; choose one of instance, token"),
    ({"direction": "both"}, "method.direction='both': unknown"),
    ({"level": "instance"}, "method.tokens=4: with method.level='instance'"),
    ({"contrast_epochs": 0.0}, "method.contrast_epochs=0.0: must be above 0"),
  ],
)
def test_what_the_recipe_refuses(options, complaint):
  with pytest.raises(UserError, match=complaint):
    trg(**options)


@pytest.mark.parametrize(
  ("options", "given", "complaint"),
  [
    ({"tokens": 4, "neighbours": 12}, {}, "k must be at least 1 and below the 12 rows"),
    ({"tokens": 5}, {}, "count must be between 1 and the 4 tokens"),
    ({"tokens": 4, "neighbours": 2, "sigma": 0.0}, {}, "method.sigma=0.0: must be above 0"),
    ({"tap": "block9"}, {}, "no such tap; available of the student: block0, block1"),
    ({"patch": 3}, {}, "do not divide a map"),
    ({}, {"student": np.zeros((3, 7)), "teacher": np.zeros((3, 7))}, "is a vector without places"),
    ({}, {"student": np.zeros((3, 7, 2))}, "7 tokens are no square grid"),
  ],
)
def test_what_the_terms_refuse(options, given, complaint):
  with pytest.raises(ValueError, match=complaint):
    trg(**options).terms["local"].value(view(**given))


def test_a_batch_of_one_image_is_warned_about():
  alone = view(STUDENT[:1], TEACHER[:1], connectors={"projector": jnp.float32(TOKENS[:1])})
  with pytest.warns(UserWarning, match="no other image"):
    trg(tokens=2).terms["global"].value(alone)
