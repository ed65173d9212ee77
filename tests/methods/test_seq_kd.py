"""SeqKD: what the teacher writes, what is learned of it, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_decoders import END, MODEL, TEACHER, batch
from token_step import STUDENT, cross_entropy, kl, log_softmax, reduced, step
from token_step import TEACHER as Z_T

from jdistill.base import UserError
from jdistill.methods.language.responses import respond
from jdistill.methods.language.seq_kd import seq_kd

KEY = jax.random.key(1)
OPTIONS = {"prompt": 0, "max_new": 6, "end_token": END}


def written(data, **options):
  recipe = seq_kd(**(OPTIONS | options))
  return jax.jit(lambda data: recipe.written(KEY, ((MODEL, TEACHER),), data))(data)


def test_the_teacher_writes_and_unfinished_responses_are_dropped():
  new, figures = written(batch())
  want, samples = respond(KEY, MODEL, TEACHER, batch(), temperature=1.0, **OPTIONS)
  np.testing.assert_array_equal(new.x.tokens, want.x.tokens)
  ended = (np.asarray(samples.tokens) == END).any(1)
  np.testing.assert_array_equal(figures["unfinished"], ~ended)
  assert 0 < ended.sum() < 4  # both kinds are there
  np.testing.assert_array_equal(np.asarray(new.extra["mask"]), np.asarray(want.extra["mask"]) & ended[:, None])
  np.testing.assert_array_equal(figures["tokens"], np.asarray(new.extra["mask"]).sum(1))
  kept, _ = written(batch(), unfinished="keep")
  np.testing.assert_array_equal(kept.extra["mask"], want.extra["mask"])
  assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), new) == jax.tree.map(
    lambda leaf: (leaf.shape, leaf.dtype), batch()
  )


def test_a_response_depends_on_its_example_alone():
  whole, _ = written(batch())
  alone, _ = written(jax.tree.map(lambda leaf: leaf[2:], batch()))
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[2:], b), whole, alone)


def test_temperature_0_takes_the_likeliest_tokens():
  new, _ = written(batch(), sampling_temperature=0.0, unfinished="keep")
  best = np.asarray(jnp.argmax(MODEL.apply(TEACHER, new.x).logits, -1))
  mask = np.asarray(new.extra["mask"])
  np.testing.assert_array_equal(np.asarray(new.y)[mask], best[mask])


def test_its_loss_is_interpolated_with_that_of_words():
  recipe = seq_kd(word_share=0.25)
  terms = {name: float(term.value(step())) * term.weight for name, term in recipe.terms.items()}
  assert terms["ce"] == pytest.approx(0.75 * reduced(cross_entropy()), rel=1e-5)
  assert terms["word"] == pytest.approx(0.25 * reduced(kl(log_softmax(Z_T), log_softmax(STUDENT))), rel=1e-5)
  assert set(seq_kd().terms) == {"ce"}


def test_what_it_refuses():
  with pytest.raises(UserError, match=r"method\.end_token=None: no response ends, and all would be dropped"):
    seq_kd(end_token=None)
  with pytest.raises(UserError, match=r"method\.sampling_temperature=-1"):
    seq_kd(sampling_temperature=-1.0)
  with pytest.raises(UserError, match="300 is outside the vocabulary"):
    written(batch(), end_token=300)
  with pytest.raises(ValueError, match=r"method\.max_new=12: leaves no token of 12 to a prompt; lower it"):
    written(batch(), max_new=12)
  with pytest.raises(ValueError, match="seq_kd: its teacher writes, and this one cannot"):
    seq_kd(**OPTIONS).written(KEY, (), batch())
