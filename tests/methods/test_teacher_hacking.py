"""The sources of responses: what is fixed, what is new, who writes, and the loss on it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from token_step import COUNTED, STUDENT, TEACHER, kl, log_softmax, reduced, step

from jdistill import language, models
from jdistill.base import Batch, UserError
from jdistill.methods.knowledge import Sampling
from jdistill.methods.language.teacher_hacking import teacher_hacking

END, VOCABULARY = 9, 10
NETWORK = models.build("decoder", num_classes=VOCABULARY, image_shape=(12,), width=8, depth=1, heads=2)
PARAMS, OTHER = (NETWORK.init(jax.random.key(seed)).params for seed in (0, 1))


def batch(order=(0, 1, 2, 3)):
  documents, counted = language.join([[1, 2], [4, 4], [5, 6], [7, 1]], [[3, 3, 3, 3]] * 4, end_token=END)
  packed = language.pad(documents, counted=counted)
  targets, mask = language.next_tokens(packed.rows, packed.counted)
  whole = Batch(jax.tree.map(jnp.asarray, packed.rows), targets, jnp.int32([5, 3, 8, 2]), extra={"mask": mask})
  return jax.tree.map(lambda leaf: leaf[jnp.asarray(order)], whole)


def written(seed, order=(0, 1, 2, 3), root=0, **options):
  recipe = teacher_hacking(max_new=5, end_token=END, **options)
  memory = recipe.memory.init(jax.random.key(root), 4, batch())
  sampling = Sampling(batch(order), NETWORK.language, PARAMS, ((NETWORK.language, OTHER),), memory, None, 0.0, None)
  found, after = jax.jit(lambda key: recipe.sampled_batch(key, sampling))(jax.random.key(seed))
  np.testing.assert_array_equal(memory, after)
  rows = np.asarray(found.x.tokens)
  return {
    int(one): tuple(row[own]) for one, row, own in zip(found.ids, rows, np.asarray(found.x.segments) > 0, strict=True)
  }


def test_fixed_responses_come_again_whatever_the_update_and_the_batch():
  first = written(0, responses=1)
  assert first == written(1, responses=1) == written(2, order=(3, 1, 0, 2), responses=1)
  assert first != written(0, root=1, responses=1)  # another seed of the run
  assert first.keys() == {5, 3, 8, 2} and first[5][:2] == (1, 2) and first[2][:2] == (7, 1)


def test_k_responses_are_k_different_ones():
  found = [written(seed, responses=3) for seed in range(14)]
  for one in (5, 3, 8, 2):
    assert 2 <= len({responses[one] for responses in found}) <= 3


@pytest.mark.parametrize("source", ["teacher", "student"])
def test_online_responses_are_new_and_of_their_writer(source):
  found = [written(seed, source=source) for seed in range(8)]
  assert len({responses[5] for responses in found}) > 5
  key = jax.random.split(jax.random.key(0))[1]
  own = OTHER if source == "teacher" else PARAMS
  samples = language.generate(
    NETWORK.language, own, batch().x.tokens[:, :2], key, max_new=5, end_token=END, row_ids=batch().ids
  )
  expected = [
    tuple(row[there]) for row, there in zip(np.asarray(samples.tokens), np.asarray(samples.mask), strict=True)
  ]
  assert [found[0][one][2:] for one in (5, 3, 8, 2)] == expected


def test_the_loss_is_the_forward_kl_of_the_responses():
  recipe = teacher_hacking(source="data")
  assert recipe.sampled_batch is None and recipe.memory is None
  values = np.where(COUNTED, kl(log_softmax(TEACHER), log_softmax(STUDENT)), 0)
  assert recipe.terms["divergence"].value(step()) == pytest.approx(reduced(values), rel=1e-5)
  reverse = np.where(COUNTED, kl(log_softmax(STUDENT), log_softmax(TEACHER)), 0)
  found = teacher_hacking(source="data", divergence="reverse_kl", reduction="sequence_mean")
  assert found.terms["divergence"].value(step()) == pytest.approx(reduced(reverse, "sequence_mean"), rel=1e-5)


def test_what_makes_no_sense_is_refused():
  with pytest.raises(UserError, match=r"method\.responses=1: those of method\.source='student' are always new"):
    teacher_hacking(source="student", responses=1)
  with pytest.raises(UserError, match=r"method\.responses=0: must be at least 1"):
    teacher_hacking(responses=0)
  recipe = teacher_hacking(max_new=5, end_token=END)
  memory = recipe.memory.init(jax.random.key(0), 4, batch())
  with pytest.raises(ValueError, match="its teacher writes, and this one cannot"):
    recipe.sampled_batch(jax.random.key(0), Sampling(batch(), NETWORK.language, PARAMS, (), memory, None, 0.0, None))
