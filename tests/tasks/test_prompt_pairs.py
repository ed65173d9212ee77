"""Two prompts for every problem: who is trained on which, and the grid of scores."""

import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.language import byte_tokenizer
from jdistill.tasks import Request
from jdistill.tasks.prompt_pairs import prompt_pair, prompt_pairs

WORDS = byte_tokenizer()


def made(dataset="addition", train_size=20, test_size=6, validation_size=5, **options):
  request = Request(dataset, None, train_size, test_size, "none", validation_size, 0)
  return prompt_pairs(request, **({"questions": 100, "digits": 2, "teacher_size": 12} | options))


def texts(data):
  rows, there = np.asarray(data.x.tokens), np.asarray(data.x.segments) > 0
  return [WORDS.decode(row[own & (row != WORDS.eos)].tolist()) for row, own in zip(rows, there, strict=True)]


def test_problems_are_kept_apart_and_the_teacher_has_both_prompts():
  task = made()
  teacher, own = texts(task.teacher), texts(task.data)
  assert len(teacher) == 24 and sum(text.startswith("?") and "," in text for text in teacher) == 12
  assert all("," not in text for text in teacher if not text.startswith("?"))
  problem = lambda text: text.lstrip("?").partition("=")[0]  # noqa: E731
  groups = [set(map(problem, found)) for found in (teacher, own, texts(task.validation), texts(task.test))]
  assert [len(group) for group in groups] == [12, 20, 5, 6] and len(set.union(*groups)) == 43
  for text, prompt in zip(own, task.data.extra["teacher_prompt"], strict=True):
    assert (
      WORDS.decode(prompt[prompt >= 0].tolist())
      == f"?{problem(text)}="
      == prompt_pair(*map(int, problem(text).split("+")))[0]
    )


def knowing(direct, elaborate):
  """A network that writes these functions of a sum, by the prompt."""

  def predict(x):
    logits = np.zeros((*x.tokens.shape, WORDS.size), np.float32)
    for row, tokens in enumerate(np.asarray(x.tokens)):
      text = WORDS.decode(tokens.tolist())
      prompt = text[: text.index("=") + 1]
      a, b = map(int, prompt.strip("?=").split("+"))
      response = (elaborate if prompt.startswith("?") else direct)(a + b)
      for place, token in enumerate([*WORDS.encode(response), WORDS.eos]):
        logits[row, len(prompt) - 1 + place, token] = 1
    return logits

  return predict


def test_the_score_is_a_grid_of_both_prompts():
  task = made()
  found = task.score(knowing(lambda total: f";{total + 1}", lambda total: f"1+1=2;{total}"), task.test)
  assert (found["accuracy"], found["unread"]) == (0.0, 0.0)
  assert (found["accuracy_elaborate"], found["unread_elaborate"]) == (1.0, 0.0)
  assert found["tokens_elaborate"] == pytest.approx(found["tokens"] + 5, abs=0.5)
  unread = task.score(knowing(lambda total: f";{total}", lambda total: "no answer"), task.test)
  assert (unread["accuracy"], unread["unread_elaborate"]) == (1.0, 1.0)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"dataset": "python"}, "set dataset='addition'"),
    ({"teacher_size": 90}, "11 problems held out, 90 of the teacher and 20 for students are not all there among 100"),
    ({"context": 12}, r"task\.context=12: a prompt and its response have 29 tokens; raise it"),
  ],
)
def test_what_is_refused(options, message):
  with pytest.raises(UserError, match=message):
    made(**options)
