"""Checks of a teacher: each fails alone, with its own line."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.base import Outputs, UserError
from jdistill.language import byte_tokenizer, check_same_tokenizer, perplexity, preflight
from jdistill.language.preflight import rows_of

BYTES = byte_tokenizer()
PROBE = "aababbabab" * 4


def teacher(params, tokens, rows=264):
  """Believes that every token is followed by itself, with a share of 1 / 2."""
  return Outputs(jax.nn.one_hot(tokens, rows) * params["scale"], jnp.zeros((*tokens.shape, 1)))


PARAMS = {"scale": jnp.float32(math.log(263))}  # 263 others of weight 1 each beside one of weight 263


def run(**changes):
  options = {
    "teacher": teacher, "teacher_params": PARAMS, "teacher_tokenizer": BYTES, "student_tokenizer": BYTES,
    "teacher_rows": 264, "student_rows": 264, "probe": PROBE, "context": 16, "worst_perplexity": 200.0,
  } | changes  # fmt: skip
  first = [options.pop(name) for name in ("teacher", "teacher_params", "teacher_tokenizer", "student_tokenizer")]
  return preflight(*first, **options)


def test_a_teacher_that_passes():
  found = run()
  same = sum(PROBE[i] == PROBE[i + 1] for i in range(15)) / 15
  expected = 2 * 263 ** (1 - same)  # -log(1/2) where a token repeats, -log(1/2/263) elsewhere
  assert found._replace(perplexity=0.0) == (16, 259, 5, 5, 0.0, 0.0, "float32")
  assert found.perplexity == pytest.approx(expected, rel=1e-5)
  assert rows_of(found)["teacher's perplexity"] == f"{expected:.2f}"
  assert rows_of(found)["padded rows"] == "teacher 5, student 5"


def test_perplexity_of_a_uniform_model_is_its_vocabulary():
  assert perplexity(jnp.zeros((5, 7)), np.arange(5)) == pytest.approx(7, rel=1e-6)


def noisy(params, tokens):
  """Another result in every pass."""
  seed = jax.pure_callback(lambda: np.uint32(next(COUNTER)), jax.ShapeDtypeStruct((), np.uint32))
  outputs = teacher(params, tokens)
  return outputs._replace(logits=outputs.logits + 0.1 * jax.random.normal(jax.random.key(seed), outputs.logits.shape))


COUNTER = iter(range(1000))
SHIFTED = BYTES._replace(encode=lambda text, special=False: (BYTES.encode(text) + (BYTES.encode(text) == 98)))


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"student_tokenizer": byte_tokenizer(("<|endoftext|>",))}, "259 tokens of the teacher, 257 of the student"),
    ({"student_tokenizer": byte_tokenizer(("<|endoftext|>", "<a>", "<|im_end|>"))}, "special tokens <|im_start|>, <a>"),
    ({"student_tokenizer": BYTES._replace(eos=258)}, "eos is 256 for the teacher and 258 for the student"),
    ({"student_tokenizer": SHIFTED}, "the probe has other ids from token 2 on: losses on logits need one vocabulary"),
    ({"student_tokenizer": BYTES._replace(chat_template="x")}, "the chat templates of teacher and student differ"),
    ({"teacher_rows": 258}, "the teacher has 258 rows for 259 tokens"),
    ({"student_rows": 258}, "the student has 258 rows for 259 tokens"),
    ({"student_rows": 320}, "the teacher has 264 rows and the student 320; give the student as many, or cut"),
    ({"probe": "a"}, "probe: has 1 tokens, and at least 2 are needed"),
    ({"teacher_params": {"scale": jnp.float32(jnp.nan)}}, "its logits on the probe are not finite"),
    ({"teacher": noisy}, "two passes over the same tokens differ by"),
    ({"worst_perplexity": 10.0}, "its perplexity on the probe is"),
    ({"worst_perplexity": None}, "not below 25.9: it does not know such text"),
  ],
)
def test_each_check_fails_alone(changes, message):
  with pytest.raises(UserError) as caught:
    run(**changes)
  assert message in str(caught.value) and "\n" not in str(caught.value)


def test_ids_that_differ_in_number():
  longer = BYTES._replace(encode=lambda text, special=False: np.append(BYTES.encode(text), 0))
  with pytest.raises(UserError, match="the probe has other ids from token 40 on"):
    check_same_tokenizer(BYTES, longer, PROBE)
  check_same_tokenizer(BYTES, byte_tokenizer(), PROBE)
