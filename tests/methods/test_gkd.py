"""GKD: prompts drawn from documents, rows that the student writes, the share of them, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from token_step import step

from jdistill import language, models
from jdistill.base import Batch, UserError
from jdistill.jobs import traced
from jdistill.methods.knowledge import Sampling, StudentInput, student_method
from jdistill.methods.language.divergences import fkl, jsd
from jdistill.methods.language.gkd import gkd
from jdistill.methods.language.responses import draw_prompts, respond
from jdistill.methods.optimizers import make_optimizer
from jdistill.teachers.frozen import committee

END, VOCABULARY, LENGTH = 9, 10, 12
PROMPTS, RESPONSES = [[1, 2, 3], [4], [5, 6]], [[7, 7], [8, 7, 8, 8], [1]]  # the third stands beside the first
NETWORK = models.build("decoder", num_classes=VOCABULARY, image_shape=(LENGTH,), width=8, depth=1, heads=2)
PARAMS, TEACHER = (NETWORK.init(jax.random.key(seed)).params for seed in (0, 9))


@pytest.fixture(scope="module")
def batch():
  documents, counted = language.join(PROMPTS, RESPONSES, end_token=END)
  parts = [
    language.pack([documents[i] for i in own], LENGTH, counted=[counted[i] for i in own]) for own in ([0, 2], [1])
  ]
  rows = jax.tree.map(lambda *leaves: jnp.asarray(np.concatenate(leaves)), *(part.rows for part in parts))
  targets, mask = language.next_tokens(rows, np.concatenate([part.counted for part in parts]))
  return Batch(rows, targets, jnp.int32([5, 3]), extra={"mask": mask})


def drawn(batch, seed, **options):
  tokens, there = draw_prompts(jax.random.key(seed), batch, **({"prompt": 0, "max_new": 8} | options))
  assert (np.asarray(tokens)[~np.asarray(there)] == 0).all()
  assert (np.diff(np.asarray(there).astype(int), axis=1) >= 0).all()  # padding is on the left
  return [list(map(int, row[own])) for row, own in zip(tokens, there, strict=True)]


def test_prompts_of_records_are_theirs_and_every_document_is_drawn(batch):
  found = [drawn(batch, seed) for seed in range(30)]
  assert all(second == PROMPTS[1] for _, second in found)
  firsts = [tuple(first) for first, _ in found]
  assert set(firsts) == {tuple(PROMPTS[0]), tuple(PROMPTS[2])}
  assert 5 < firsts.count(tuple(PROMPTS[0])) < 25


def test_more_of_a_document_and_the_end_of_a_long_prompt(batch):
  assert drawn(batch, 0, prompt=2)[1] == [4, 8, 7]
  assert drawn(batch, 0, prompt=99, max_new=6)[1] == [4, 8, 7, 8, 8]  # all but the end token
  assert drawn(batch, 0, prompt=2, max_new=10)[1] == [8, 7]


def test_a_text_gives_its_beginning():
  rows = jax.tree.map(jnp.asarray, language.pack([[END, 1, 2, 3, 4, END]], LENGTH).rows)
  targets, mask = language.next_tokens(rows)
  text = Batch(rows, targets, jnp.int32([0]), extra={"mask": mask})
  assert drawn(text, 0) == [[END]] and drawn(text, 0, prompt=2) == [[END, 1, 2]]


def written(batch, seed=0, share=1.0, **options):
  recipe = gkd(student_share=share, max_new=6, end_token=END, **options)

  def sampled(key, batch):
    teacher = (NETWORK.language, TEACHER)
    seen = Sampling(batch, NETWORK.language, PARAMS, (teacher,), (), None, jnp.float32(0), None)
    return recipe.sampled_batch(key, seen)[0]

  return jax.jit(sampled)(jax.random.key(seed), batch)


def test_the_student_continues_prompts_and_its_response_is_what_counts(batch):
  new = written(batch)
  assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), new._replace(extra={})) == jax.tree.map(
    lambda leaf: (leaf.shape, leaf.dtype), batch._replace(extra={})
  )
  tokens, there, mask = (np.asarray(x) for x in (new.x.tokens, new.x.segments > 0, new.extra["mask"]))
  for row in range(2):
    own = tokens[row][there[row]]
    count = next(len(p) for p in PROMPTS if list(own[: len(p)]) == p and (row == 1) == (p == PROMPTS[1]))
    response = own[count:]
    assert 1 <= len(response) <= 6 and END not in response[:-1] and (len(response) == 6 or response[-1] == END)
    assert list(np.asarray(new.y)[row][mask[row]]) == list(response)
  assert (np.asarray(new.extra["own_text"]) == 1).all()


def test_a_sample_does_not_depend_on_its_neighbours(batch):
  whole, alone = written(batch), written(jax.tree.map(lambda leaf: leaf[1:], batch))
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1:], b), whole, alone)


def test_the_share_of_updates_on_own_text(batch):
  flags = [float(written(batch, seed, 0.25).extra["own_text"][0]) for seed in range(60)]
  assert 5 <= sum(flags) <= 27  # 15 expected, 3.4 the standard deviation
  kept = written(batch, flags.index(0.0), 0.25)
  jax.tree.map(np.testing.assert_array_equal, kept.x, batch.x)
  np.testing.assert_array_equal(kept.extra["mask"], batch.extra["mask"])
  assert gkd(student_share=0.0).sampled_batch is None


def test_the_teacher_writes_where_the_student_does_not(batch):
  seeds = range(8)
  flags = [float(written(batch, seed, 0.5).extra["own_text"][0]) for seed in seeds]
  seed = flags.index(0.0)
  new = written(batch, seed, 0.5, seq_kd=True)
  _, key = jax.random.split(jax.random.key(seed))
  options = {"prompt": 0, "max_new": 6, "temperature": 1.0, "end_token": END}
  want, _ = respond(key, NETWORK.language, TEACHER, batch, **options)
  np.testing.assert_array_equal(new.x.tokens, want.x.tokens)
  np.testing.assert_array_equal(new.extra["mask"], want.extra["mask"])
  assert not np.array_equal(new.x.tokens, written(batch, seed, 1.0).x.tokens) and not new.extra["own_text"].any()
  recipe = gkd(student_share=0.0, seq_kd=True, max_new=6, end_token=END)
  alone = Sampling(batch, NETWORK.language, PARAMS, (), (), None, jnp.float32(0), None)
  with pytest.raises(ValueError, match=r"gkd: its teacher writes, and this one cannot; use targets\.source='online'"):
    recipe.sampled_batch(jax.random.key(0), alone)


@pytest.mark.parametrize(("kind", "other"), [("jsd", jsd(beta=0.3)), ("forward_kl", fkl())])
def test_its_loss_is_that_of_the_divergence(kind, other):
  own = gkd(divergence=kind, beta=0.3)
  (name,) = set(other.terms) - {"ce"}
  assert float(own.terms["gkd"].value(step())) == pytest.approx(float(other.terms[name].value(step())), rel=1e-6)


@pytest.mark.parametrize("student", [NETWORK, NETWORK.language], ids=["network", "language_model"])
def test_a_network_of_the_zoo_and_a_language_model_are_trained_alike(batch, student):
  frozen = committee([NETWORK], [NETWORK.init(jax.random.key(1))])
  recipe, optimizer = gkd(student_share=1.0, max_new=6, end_token=END), make_optimizer("sgd", 0.1)
  method = student_method(student, recipe, optimizer=optimizer, targets=frozen.targets)
  inputs = StudentInput(batch, jnp.int32(0), jnp.float32(0), targets=frozen.arrays)
  state = method.init(jax.random.key(0), inputs)
  after, metrics = jax.jit(method.step)(jax.random.key(2), state, inputs)
  assert float(metrics["method/own_text"]) == 1 and float(metrics["loss/gkd"]) > 0
  moved = jax.tree.map(
    lambda a, b: float(jnp.abs(a - b).max()), state.roles["student"].params, after.roles["student"].params
  )
  assert max(jax.tree.leaves(moved)) > 0


def test_what_it_refuses(batch):
  with pytest.raises(ValueError, match=r"method\.max_new=12: leaves no token of 12 to a prompt; lower it"):
    draw_prompts(jax.random.key(0), batch, 0, 12)
  with pytest.raises(ValueError, match="responses: need examples with documents and a mask"):
    draw_prompts(jax.random.key(0), batch._replace(x=batch.x.tokens), 0, 4)
  with pytest.raises(UserError, match=r"targets\.source='cached': gkd has its teacher read what is written"):
    traced._plain_for_teachers(gkd(), "gkd", "cached")
  gru = models.build("gru", num_classes=VOCABULARY, image_shape=(LENGTH,), width=4)
  method = student_method(gru, gkd(max_new=6, end_token=END), optimizer=make_optimizer("sgd", 0.1))
  inputs = StudentInput(batch._replace(x=batch.x.tokens), jnp.int32(0), jnp.float32(0))
  state = jax.eval_shape(method.init, jax.random.key(0), inputs)
  with pytest.raises(ValueError, match="student: this method trains on text of the student's own, and it cannot write"):
    jax.eval_shape(method.step, jax.random.key(0), state, inputs)
