"""Styles of responses: all right, in the words of the checker, and reproducible."""

import re

import numpy as np
import pytest

from jdistill.language import byte_tokenizer
from jdistill.synthetic.traces import STYLES, addition_responses, addition_trace

WANT = {
  "answer": ";51",
  "steps": "2+9+0=11,1+3+1=5;51",
  "carry_first": "1,0=1,5;51",
  "verbose": "12+39=2+9+0=11,12+39=1+3+1=5;51",
}


@pytest.mark.parametrize("style", WANT)
def test_a_style_writes_this(style):
  assert addition_trace(12, 39, style) == ("12+39=", WANT[style])


@pytest.mark.parametrize("style", STYLES)
def test_every_equation_is_true_and_the_answer_is_the_sum(style):
  for a, b in np.random.default_rng(0).integers(0, 10**4, (30, 2)).tolist():
    prompt, response = addition_trace(a, b, style)
    trace, answer = response.split(";")
    assert prompt == f"{a}+{b}=" and int(answer) == a + b and response == addition_trace(a, b, style)[1]
    assert set(trace) <= set("0123456789+=,")
    for step in [] if style == "carry_first" else trace.split(",") if trace else []:
      left, right = re.sub(rf"^{a}\+{b}=", "", step).split("=") if style == "verbose" else step.split("=")
      assert sum(map(int, left.split("+"))) == int(right)


def test_shuffled_and_distracting_steps_hold_the_plain_ones():
  plain = set(addition_trace(987, 456, "steps")[1].split(";")[0].split(","))
  assert set(addition_trace(987, 456, "shuffled")[1].split(";")[0].split(",")) == plain
  assert plain < set(addition_trace(987, 456, "distracting")[1].split(";")[0].split(",")) | plain
  assert len({addition_trace(987, 456, "shuffled", seed=seed)[1] for seed in range(20)}) > 2


def test_records_name_their_source():
  words = byte_tokenizer()
  (found,) = addition_responses([(3, 4)], "steps", words.encode, tokenizer="bytes", seed=2)
  assert words.decode(found.prompt) == "3+4=" and words.decode(found.response) == "3+4+0=7;7"
  assert (found.question, found.source, found.seed, found.tokenizer) == (0, "steps", 2, "bytes")
  with pytest.raises(ValueError, match="style='odd'; choose one of answer, steps"):
    addition_trace(1, 2, "odd")
