"""Stored hidden states as targets: losses and gradients of whole logits, other text refused, nothing of size B T V."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.base import Batch, Network, Outputs, UserError, Variables
from jdistill.methods.knowledge.recipe import StepOutputs
from jdistill.methods.language import divergences as recipes
from jdistill.models import DecoderConfig, language_model
from jdistill.teachers import hidden
from jdistill.teachers.frozen import committee

B, T, V = 3, 5, 23
ROWS = np.random.default_rng(0).integers(0, V, (6, T)).astype(np.int32)
IDS = np.array([40, 7, 12, 3, 25, 9], np.int32)
OPTIONS = {"fkl": {}, "rkl": {}, "jsd": {"beta": 0.3}, "skew_kl": {"skew": 0.2}, "skew_rkl": {"skew": 0.2}}


def decoder(width, seed, tied=True):
  model = language_model(DecoderConfig(V, width=width, depth=1, heads=2, context=8, tied=tied))
  params = model.init(jax.random.key(seed)).params
  return Network(model.init, model.apply, model), Variables(jax.tree.map(lambda leaf: 3 * leaf, params))


@functools.cache
def taught(tied=True):
  return decoder(8, 1, tied)


def recorded(dtype="float32", tied=True, **changes):
  network, variables = taught(tied)
  words = {"data": "text one", "teacher_hash": "abc"} | changes
  return hidden.record_hidden(network, variables, ROWS, IDS, dtype=dtype, **words)


def asked(source, ids):
  batch = Batch(jnp.zeros((len(ids), T), jnp.int32), jnp.zeros((len(ids), T), jnp.int32), jnp.asarray(ids))
  return source.targets(source.arrays, jax.random.key(0), batch, None, jnp.int32(0))[0]


@pytest.mark.parametrize("tied", [True, False])
def test_rows_are_found_by_their_ids_and_a_row_that_is_not_stored_is_nan(tied):
  network, variables = taught(tied)
  source = hidden.hidden_targets(recorded(tied=tied), variables.params, data="text one", teacher_hash="abc")
  found = asked(source, [12, 41, 40])
  want = jax.jit(lambda params: network.apply(params, jnp.asarray(ROWS[[2, 0]])))(variables.params)
  np.testing.assert_allclose(found.logits[jnp.array([0, 2])], want.logits, atol=1e-5)
  np.testing.assert_allclose(found.embedding[jnp.array([0, 2])], want.embedding, atol=1e-6)
  assert np.isnan(found.logits[1]).all() and np.isnan(found.embedding[1]).all()
  assert list(found.head) == (["table"] if tied else ["kernel"])
  assert source.nbytes == 6 * T * 8 * 4 + 6 * 4 + V * 8 * 4 and source.name == "hidden float32"


def stepped(name, student, teacher, params, where=None):
  """The loss of a recipe with a teacher that gives logits, or its hidden states."""
  mask = jnp.ones((B, T), bool).at[0, 2:].set(False).at[2].set(False)
  y = jnp.asarray(np.roll(ROWS[:B], -1, axis=1))
  batch = Batch(jnp.asarray(ROWS[:B]), y, jnp.asarray(IDS[:B]), jnp.ones(B), {"mask": mask})
  there = jnp.ones(B, bool) if where is None else where
  outputs = StepOutputs(
    batch, student, (teacher,), {}, {"student": params}, (), (), there, jnp.float32(0), jax.random.key(0), jnp.arange(B)
  )
  recipe = getattr(recipes, name)(temperature=1.7, ce_weight=0.3, kd_weight=0.7, **OPTIONS[name])
  outputs = outputs._replace(shared=recipe.shared(outputs))
  return sum(recipe.terms[key].weight * recipe.terms[key].value(outputs) for key in recipe.terms)


@pytest.mark.parametrize(("name", "tied"), [*((name, True) for name in OPTIONS), ("fkl", False)])
def test_value_and_gradient_are_those_of_whole_logits(x64, name, tied):
  network, own = decoder(4, 2, tied)
  other, variables = taught(tied)
  own, variables = (jax.tree.map(lambda leaf: leaf.astype(jnp.float64), tree) for tree in (own, variables))
  seen = jax.jit(lambda params: other.apply(params, jnp.asarray(ROWS[:B])))(variables.params)
  (head,) = hidden.head_arrays(variables.params).items()
  teachers = {
    "logits": Outputs(seen.embedding @ (head[1].T if tied else head[1]), seen.embedding),
    "hidden": hidden.with_head(seen.embedding, dict([head])),
  }

  def loss(params, kind):
    out = network.apply(params, jnp.asarray(ROWS[:B]))
    mine = out.embedding @ (params["embed"]["kernel"].T if tied else params["head"]["kernel"])
    return stepped(name, out._replace(logits=mine), teachers[kind], params)

  (want, slope), (found, same) = (
    jax.jit(jax.value_and_grad(functools.partial(loss, kind=kind)))(own.params) for kind in teachers
  )
  np.testing.assert_allclose(found, want, rtol=1e-10)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10), same, slope)


def test_padding_of_a_batch_that_is_not_stored_reaches_nothing():
  network, own = decoder(4, 2)
  source = hidden.hidden_targets(recorded(), taught()[1].params)
  out = jax.jit(lambda params: network.apply(params, jnp.asarray(ROWS[:B])))(own.params)
  there = jnp.array([True, True, False])
  loss = jax.jit(lambda ids: stepped("fkl", out, asked(source, ids), own.params, there))
  whole, padded = loss(IDS[:B]), loss(np.int32([*IDS[:2], 1000]))
  assert np.isfinite(whole) and float(whole) == float(padded)


def test_no_array_of_the_program_has_a_number_for_every_token_and_id():
  """A vocabulary and a number of tokens that nothing else has: their product appears with logits, and only there."""
  width, tokens, size = 8, 37, 8209
  model = language_model(DecoderConfig(size, width=width, depth=1, heads=2, context=tokens))
  params = model.init(jax.random.key(0)).params
  x = jnp.zeros((1, tokens), jnp.int32)
  batch = Batch(x, x, jnp.zeros(1, jnp.int32), jnp.ones(1), {"mask": jnp.ones((1, tokens), bool)})

  def loss(params, states, head, stored):
    teacher = hidden.with_head(states, head)
    teacher = teacher if stored else teacher._replace(head=None)
    recipe = recipes.fkl()
    outputs = StepOutputs(
      batch, model.apply(params, x), (teacher,), {}, {"student": params}, (), (), jnp.ones(1, bool), jnp.float32(0),
      jax.random.key(0), jnp.arange(1),
    )  # fmt: skip
    outputs = outputs._replace(shared=recipe.shared(outputs))
    return sum(term.weight * term.value(outputs) for term in recipe.terms.values())

  def shapes(stored):
    step = jax.jit(jax.grad(functools.partial(loss, stored=stored)))
    text = step.lower(params, jnp.ones((1, tokens, width)), hidden.head_arrays(params)).compile().as_text()
    sizes = [np.prod([int(n) for n in dims.split(",")]) for dims in re.findall(r"f32\[([\d,]+)\]", text)]
    return max(sizes)

  assert shapes(False) >= tokens * size
  assert shapes(True) < tokens * size  # the gradient of the head is the greatest


@pytest.mark.parametrize("dtype", hidden.DTYPES)
def test_states_are_written_in_their_type_and_read_again(tmp_path, dtype):
  cache = recorded(dtype)
  hidden.save(cache, tmp_path / "h.npz")
  found = hidden.load(tmp_path / "h.npz")
  assert str(found.hidden.dtype) == dtype and (found.data, found.teacher) == ("text one", "abc")
  np.testing.assert_array_equal(found.hidden.astype(np.float32), cache.hidden.astype(np.float32))
  np.testing.assert_array_equal(found.ids, np.sort(IDS))
  bound = {"float16": 2**-11, "bfloat16": 2**-8, "float32": 0}[dtype]  # of a value, half a unit in the last place
  exact = recorded("float32").hidden
  assert (np.abs(found.hidden.astype(np.float32) - exact) <= bound * np.abs(exact) + 1e-6).all()


def test_other_text_another_teacher_and_what_is_no_cache_are_refused(tmp_path):
  _, variables = taught()
  with pytest.raises(UserError, match=r"hidden states: of text text one, and this is text two; record them again"):
    hidden.hidden_targets(recorded(), variables.params, data="text two")
  with pytest.raises(UserError, match=r"hidden states: of teacher abc, and this is def"):
    hidden.hidden_targets(recorded(), variables.params, teacher_hash="def")
  with pytest.raises(UserError, match=r"targets\.store='int8': unknown; choose one of float16, bfloat16, float32"):
    recorded("int8")
  np.savez(tmp_path / "x.npz", hidden=np.zeros(3))
  with pytest.raises(UserError, match=r"holds no hidden states \(data, dtype, ids, teacher missing\)"):
    hidden.load(tmp_path / "x.npz")


def test_states_beyond_a_type_and_ids_that_occur_twice_are_refused():
  network, variables = taught()
  params = dict(variables.params) | {"last_norm": {"scale": variables.params["last_norm"]["scale"] * 1e6}}
  words = {"data": "d", "teacher_hash": "t"}
  with pytest.raises(UserError, match=r"targets\.store='float16': .* not all finite in it; set 'bfloat16'"):
    hidden.record_hidden(network, Variables(params), ROWS, IDS, **words)
  with pytest.raises(UserError, match=r"ids: a row's name occurs twice"):
    hidden.record_hidden(network, variables, ROWS, np.zeros(6, np.int32), **words)
  with pytest.raises(ValueError, match=r"head: the layers layer0 are those of no decoder"):
    hidden.head_arrays({"layer0": {}})
  assert committee([network], [variables]).name == "online"
