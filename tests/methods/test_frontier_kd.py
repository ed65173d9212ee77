"""Two prompts: the teacher answers one, the student's example has the other; what is dropped and counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_decoders import END, MODEL, TEACHER, batch

from jdistill.base import UserError
from jdistill.language import Samples, generate
from jdistill.methods.language.frontier_kd import answers, frontier_kd

KEY = jax.random.key(1)
OPTIONS = {"max_new": 6, "end_token": END, "sampling_temperature": 1.0}
ELABORATE = jnp.int32([[-1, 0, 1, 2, 3], [-1, -1, -1, 0, 4], [-1, -1, 0, 5, 6], [-1, -1, 0, 2, 2]])


def data():
  return batch()._replace(extra=dict(batch().extra) | {"teacher_prompt": ELABORATE})


def written(examples=None, **options):
  recipe = frontier_kd(**(OPTIONS | options))
  return jax.jit(lambda one: recipe.written(KEY, ((MODEL, TEACHER),), one))(data() if examples is None else examples)


def sampled():
  there = ELABORATE >= 0
  return generate(
    MODEL, TEACHER, jnp.where(there, ELABORATE, 0), KEY, max_new=6, prompt_mask=there, end_token=END,
    row_ids=batch().ids,
  )  # fmt: skip


def parts(new, row):
  """Prompt and response that are learned, of one row."""
  there = np.asarray(new.x.segments[row]) > 0
  learned = np.asarray(new.y[row])[np.asarray(new.extra["mask"][row])]
  return np.asarray(new.x.tokens[row])[there].tolist(), learned.tolist()


def test_the_student_sees_its_own_prompt_and_the_answer_to_the_other():
  new, figures = written()
  samples = sampled()
  ended = (np.asarray(samples.tokens) == END).any(1)
  size = np.asarray(samples.mask).sum(1)
  assert ended.any() and not ended.all()
  np.testing.assert_array_equal(figures["unfinished"], ~ended)
  np.testing.assert_array_equal(figures["empty"], ended & (size == 1))
  for row, prompt in enumerate([[1, 2, 3], [4], [5, 6], [2, 2]]):
    response = np.asarray(samples.tokens[row])[: size[row]].tolist()
    whole, learned = parts(new, row)
    assert whole == prompt + response
    assert learned == (response if ended[row] and size[row] > 1 else [])  # no token of a prompt is learned
    assert figures["tokens"][row] == len(learned)


def test_direct_prompts_are_those_of_the_student():
  elaborate, _ = written(sampling_temperature=0.0)
  direct, _ = written(prompts="direct", sampling_temperature=0.0)
  without, _ = written(batch(), prompts="direct", sampling_temperature=0.0)
  np.testing.assert_array_equal(direct.x.tokens, without.x.tokens)
  assert not np.array_equal(direct.x.tokens, elaborate.x.tokens)


def test_answers_begin_at_the_first_separator():
  tokens = np.array([[3, 5, 1, 5, 9, 0], [3, 1, 9, 0, 0, 0], [5, 9, 5, 5, 5, 5], [1, 2, 3, 4, 2, 5]], np.int32)
  mask = np.array([[1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1] * 6], bool)
  numbers = -np.arange(24.0, dtype=np.float32).reshape(4, 6)
  found = jax.jit(lambda one: answers(one, 5))(Samples(tokens, mask, numbers, numbers))
  assert found.tokens.tolist() == [[5, 1, 5, 9, 0, 0], [0] * 6, [5, 9, 0, 0, 0, 0], [5, 0, 0, 0, 0, 0]]
  assert found.mask.sum(1).tolist() == [4, 0, 2, 1]
  assert found.log_probs[0, :4].tolist() == numbers[0, 1:5].tolist() and not found.log_probs[1].any()


def test_an_answer_without_a_separator_is_dropped():
  new, figures = written(target="answer", separator=END)  # the end alone is left of every response that has one
  assert not np.asarray(new.extra["mask"]).any()
  assert (np.asarray(figures["empty"]) | np.asarray(figures["unfinished"])).all() and np.any(figures["empty"])


def test_what_it_refuses():
  with pytest.raises(ValueError, match=r"method\.prompts='elaborate': the task has no such prompts; set"):
    written(batch())
  with pytest.raises(ValueError, match="frontier_kd: its teacher writes, and this one cannot"):
    frontier_kd(**OPTIONS).written(KEY, (), data())
  with pytest.raises(ValueError, match=r"method\.max_new=12: leaves no token of 12 to a prompt; lower it"):
    written(max_new=12)
  with pytest.raises(UserError, match=r"method\.target='steps'"):
    frontier_kd(target="steps")
